"""What is said of models and versions that are not there, in TF Serving's words."""

import grpc

from serving.errors import RequestError


def servable_not_found(name: str, number: int | None = None) -> RequestError:
  """What a request for a model or version that is not available is answered."""
  request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
  return RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}")


def versions_not_found(name: str) -> RequestError:
  """What a question for the status of a model that was never seen is answered."""
  return RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")


def version_not_found(name: str, number: int) -> RequestError:
  """What a question for the status of a version that was never seen is answered."""
  return RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find version {number} of model {name}")


def no_model(path: str) -> RequestError:
  """What the status of a version says whose folder holds no SavedModel."""
  return RequestError(
    grpc.StatusCode.NOT_FOUND,
    f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}. It is loaded as soon as it "
    "holds saved_model.pb",
  )
