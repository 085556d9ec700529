"""The registry: one file an application, one line each. There is no other registry."""

from components.task import Task
from pipeline.tasks.image_classification import TASK as image_classification

TASKS: dict[str, Task] = {task.name: task for task in (image_classification,)}
