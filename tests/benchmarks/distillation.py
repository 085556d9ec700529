"""A student distilled from a teacher against the same student trained alone, on the sample; mean of three seeds."""

import keras
from prepared_run import prepare

from components.input import count_examples, eval_dataset, split_files, train_dataset
from trainers.compression.distillation import distill_model
from trainers.fit import fit

STUDENT_WIDTHS = (18, 36, 72)
SEEDS = (17, 18, 19)
STUDENT_EPOCHS = 6
TEMPERATURE, ALPHA = 1.5, 0.6


def _fit(task, config, outputs, transformed, model, seed, epochs, loss) -> None:
  config = config.model_copy(update={"seed": seed})
  training = config.training.model_copy(update={"epochs": epochs})
  files = split_files(transformed, "train")
  fit(
    model,
    train_dataset(task, config, outputs, files),
    eval_dataset(task, config, outputs, split_files(transformed, "validation")),
    loss=loss,
    metrics=task.training_metrics(config),
    training=training,
    steps_per_epoch=count_examples(files) // training.batch_size,
    seed=seed,
    log=lambda text: None,
  )


def _test_accuracy(task, config, outputs, transformed, model) -> float:
  metric = keras.metrics.CategoricalAccuracy()
  for inputs, targets in eval_dataset(task, config, outputs, split_files(transformed, "test")):
    metric.update_state(targets, model(inputs, training=False))
  return float(metric.result())


def _student(task, config, outputs, seed):
  keras.utils.set_random_seed(seed)
  section = config.model.model_copy(update={"widths": STUDENT_WIDTHS})
  return task.build_model(config.model_copy(update={"model": section}), outputs)


def measure() -> dict:
  """Test accuracies; about half an hour on two cores."""
  task, config, outputs, transformed = prepare()
  loss = task.loss(config)
  teacher = task.build_model(config, outputs)
  _fit(task, config, outputs, transformed, teacher, config.seed, config.training.epochs, loss)
  alone, distilled = [], []
  for seed in SEEDS:
    student = _student(task, config, outputs, seed)
    _fit(task, config, outputs, transformed, student, seed, STUDENT_EPOCHS, loss)
    alone.append(_test_accuracy(task, config, outputs, transformed, student))
    student = _student(task, config, outputs, seed)
    wrapper = distill_model(teacher, student, TEMPERATURE, ALPHA)
    _fit(task, config, outputs, transformed, wrapper, seed, STUDENT_EPOCHS, loss)
    distilled.append(_test_accuracy(task, config, outputs, transformed, student))
  return {
    "teacher_parameters": teacher.count_params(),
    "student_parameters": student.count_params(),
    "teacher_accuracy": round(_test_accuracy(task, config, outputs, transformed, teacher), 4),
    "alone_accuracy": [round(value, 4) for value in alone],
    "distilled_accuracy": [round(value, 4) for value in distilled],
    "mean_difference": round(sum(distilled) / len(SEEDS) - sum(alone) / len(SEEDS), 4),
  }
