"""The registry: one file an application, one line each. There is no other registry."""

from components.task import Task
from pipeline.tasks.image_classification import TASK as image_classification
from pipeline.tasks.language_model import TASK as language_model
from pipeline.tasks.ngram_language_model import TASK as ngram_language_model
from pipeline.tasks.object_detection import TASK as object_detection
from pipeline.tasks.semantic_segmentation import TASK as semantic_segmentation

TASKS: dict[str, Task] = {
  task.name: task
  for task in (
    image_classification,
    object_detection,
    semantic_segmentation,
    ngram_language_model,
    language_model,
  )
}
