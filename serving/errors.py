"""Errors of the serving side, for users and for gRPC clients."""

import grpc

ERROR_MESSAGE_LIMIT = 1024

CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(RuntimeError):
  """Something that a user can mend, told in one line."""


class CallError(ServingError):
  """A server's refusal of a call, told in one line; `code` is its gRPC status."""

  def __init__(self, code: grpc.StatusCode, message: str):
    super().__init__(message)
    self.code = code


class RequestError(Exception):
  """A request is answered with this gRPC status instead of a response."""

  def __init__(self, code: grpc.StatusCode, message: str):
    super().__init__(message)
    self.code = code
    self.message = message

  @property
  def details(self) -> str:
    """The message as it is sent: cut at 1024 characters, as TF Serving does."""
    if len(self.message) <= ERROR_MESSAGE_LIMIT:
      return self.message
    return self.message[:ERROR_MESSAGE_LIMIT] + "...TRUNCATED"


def invalid_argument(message: str) -> RequestError:
  """A RequestError for a request that is wrong whatever the server's state."""
  return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)
