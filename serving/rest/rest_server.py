"""The REST server: TF Serving's HTTP API by starlette and uvicorn, in a background thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.errors import RequestError, ServingError, invalid_argument
from serving.methods.api import ModelApi
from serving.rest.rest_handler import Answer, RestHandler, error_answer
from serving.telemetry.monitoring import Monitoring

# A body takes about ten times its size in memory while it is read.
MAX_BODY_BYTES = 256 * 2**20
# A client that stays silent for so long in the middle of a request is cut off, as TF Serving's HTTP library does.
READ_TIMEOUT_S = 50
KEEP_ALIVE_S = 60
BACKLOG = 2048
GZIP = 16 + zlib.MAX_WBITS  # zlib's way to ask for gzip's head

CORS_HEADERS = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Allow-Methods": "POST, GET",
  "Access-Control-Allow-Headers": "Content-Type",
}


class RestServer:
  """Serves a ModelApi over HTTP/1.1.

  Args:
    num_threads: requests that run at once; further ones wait.
    timeout_ms: the longest that a request may take to be answered; 0: no limit.
    enable_cors: let scripts of any web page ask.
    metrics_path: where the metrics are; None: nowhere.
    reuse_port: share the port with other processes that do the same.
  """

  def __init__(
    self,
    api: ModelApi,
    monitoring: Monitoring,
    *,
    host: str,
    port: int,
    num_threads: int,
    timeout_ms: int,
    enable_cors: bool = False,
    metrics_path: str | None = None,
    reuse_port: bool = False,
  ):
    self._host, self._port, self._reuse_port = host, port, reuse_port
    self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="rest")
    handler = RestHandler(api, monitoring, timeout_ms, metrics_path)
    self._uvicorn = uvicorn.Server(
      uvicorn.Config(
        RestApplication(handler, self._pool, enable_cors),
        loop="asyncio",
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
      )
    )
    self._thread: threading.Thread | None = None

  @property
  def port(self) -> int:
    """The port listened at; where 0 was asked for, known once started."""
    return self._port

  def start(self) -> None:
    """Listens, and answers in threads of its own.

    Raises:
      ServingError: the address cannot be had.
    """
    listener = self._listen()
    self._port = listener.getsockname()[1]
    self._thread = threading.Thread(target=self._uvicorn.run, args=([listener],), name="rest", daemon=True)
    self._thread.start()

  def _listen(self) -> socket.socket:
    family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
    try:
      listener = socket.create_server(
        (self._host, self._port), family=family, backlog=BACKLOG, reuse_port=self._reuse_port
      )
      # Connections inherit it. asyncio sets it only where a socket names its protocol, which these do not; without
      # it the body of an answer waits for the client's acknowledgement of the head, often 40 ms.
      listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
      return listener
    except (OSError, OverflowError) as error:
      raise ServingError(
        f"the REST API cannot listen at {self._host}:{self._port} ({error}): give another --rest_api_port"
      ) from error

  def stop(self, grace_s: float) -> None:
    """Refuses new connections, lets requests in flight finish for at most `grace_s`, then closes."""
    if self._thread is None:
      return
    self._uvicorn.config.timeout_graceful_shutdown = grace_s
    self._uvicorn.should_exit = True
    self._thread.join()
    self._thread = None
    self._pool.shutdown(wait=False, cancel_futures=True)


class RestApplication:
  """The ASGI application: reads a request, has a thread answer it, sends the answer.

  Slow clients cost no thread: one is taken only once the whole body is there.
  """

  def __init__(self, handler: RestHandler, pool: ThreadPoolExecutor, enable_cors: bool):
    self._handler = handler
    self._pool = pool
    self._headers = CORS_HEADERS if enable_cors else {}

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    arrived_s = time.perf_counter()
    request = Request(scope, receive)
    if request.method == "OPTIONS" and self._headers:
      await Response(headers=self._headers)(scope, receive, send)
      return
    try:
      body = await _read_body(request)
    except ClientDisconnect:
      return
    headers = self._headers
    if body is None:
      answer = error_answer(413, f"A request's body may have {MAX_BODY_BYTES} bytes: send smaller batches")
      headers = {**headers, "Connection": "close"}
    else:
      answer = await self._answer_in_pool(request, body, arrived_s)
    response = Response(answer.body, answer.status, headers, answer.content_type)
    await response(scope, receive, send)

  async def _answer_in_pool(self, request: Request, body: bytes, arrived_s: float) -> Answer:
    loop = asyncio.get_running_loop()
    try:
      return await loop.run_in_executor(self._pool, self._answer, request, body, arrived_s)
    except asyncio.CancelledError:  # by a stopping server that has waited long enough
      return error_answer(503, "The server is stopping")

  def _answer(self, request: Request, body: bytes, arrived_s: float) -> Answer:
    if request.headers.get("content-encoding", "").lower() == "gzip":
      try:
        body = _uncompressed(body)
      except RequestError as error:
        return error_answer(400, error.message)
    return self._handler.answer(request.method, request.scope["raw_path"], body, arrived_s)


async def _read_body(request: Request) -> bytes | None:
  """The body, or None for one that is too large: of such a one no more is read."""
  if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
    return None
  chunks, size = [], 0
  async for chunk in request.stream():
    chunks.append(chunk)
    size += len(chunk)
    if size > MAX_BODY_BYTES:
      return None
  return b"".join(chunks)


def _uncompressed(body: bytes) -> bytes:
  stream = zlib.decompressobj(GZIP)
  try:
    text = stream.decompress(body, MAX_BODY_BYTES)
  except zlib.error as error:
    raise invalid_argument(
      f"The body is not the gzip data that Content-Encoding announces: {error}"
    ) from error
  if not stream.eof:
    reason = "is cut short" if not stream.unconsumed_tail else f"holds more than {MAX_BODY_BYTES} bytes"
    raise invalid_argument(f"The gzip data in the body {reason}")
  return text


class PatientProtocol(H11Protocol):
  """uvicorn's HTTP/1.1, with an end to its patience: it waits for the rest of a request without limit."""

  def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
    super().connection_made(transport)
    self._limit_silence()

  def data_received(self, data: bytes) -> None:
    super().data_received(data)
    self._limit_silence()

  def _limit_silence(self) -> None:
    is_waiting = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
    if is_waiting and self.timeout_keep_alive_task is None and not self.transport.is_closing():
      self.timeout_keep_alive_task = self.loop.call_later(READ_TIMEOUT_S, self.transport.close)
