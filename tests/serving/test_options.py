"""Flags: names and defaults of tensorflow_model_server 2.16, booleans, mistakes in one line."""

import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

from serving.options import (
  UNSUPPORTED,
  WITHOUT_EFFECT,
  ServerOptions,
  default_of,
  num_processors,
  parse_flags,
)

ROOT = Path(__file__).resolve().parents[2]
MODEL = "--model_base_path=/models/m"
# tensorflow_model_server 2.16's flags and what they are when not given.
DEFAULTS = {
  "port": 8500, "grpc_socket_path": "", "rest_api_port": 0, "rest_api_num_threads": 4 * num_processors(),
  "rest_api_timeout_in_ms": 30000, "rest_api_enable_cors_support": False, "enable_batching": False,
  "allow_version_labels_for_unavailable_models": False, "batching_parameters_file": "",
  "enable_per_model_batching_parameters": False, "model_config_file": "",
  "model_config_file_poll_wait_seconds": 0, "model_name": "default", "model_base_path": "",
  "num_load_threads": 0, "num_unload_threads": 0, "max_num_load_retries": 5,
  "load_retry_interval_micros": 60_000_000, "file_system_poll_wait_seconds": 1,
  "flush_filesystem_caches": True, "tensorflow_session_parallelism": 0, "tensorflow_session_config_file": "",
  "tensorflow_intra_op_parallelism": 0, "tensorflow_inter_op_parallelism": 0, "use_alts_credentials": False,
  "ssl_config_file": "", "platform_config_file": "", "per_process_gpu_memory_fraction": 0,
  "saved_model_tags": "serve", "grpc_channel_arguments": "", "grpc_max_threads": 4 * num_processors(),
  "enable_model_warmup": True, "num_request_iterations_for_warmup": 1, "version": False,
  "monitoring_config_file": "", "remove_unused_fields_from_bundle_metagraph": True,
  "prefer_tflite_model": False, "num_tflite_pools": num_processors(), "num_tflite_interpreters_per_pool": 1,
  "enable_signature_method_name_check": False, "xla_cpu_compilation_enabled": False,
  "xla_gpu_compilation_enabled": False, "enable_profiler": True, "thread_pool_factory_config_file": "",
  "mixed_precision": "", "skip_initialize_tpu": False, "enable_serialization_as_tensor_content": False,
}  # fmt: skip
OURS = {
  "host": "127.0.0.1", "port_file": "", "rest_port_file": "", "num_processes": 1,
  # Differs from TF Serving's, which is false.
  "enable_grpc_healthcheck_service": True,
}  # fmt: skip


def test_names_and_defaults():
  assert {name: default_of(name) for name in ServerOptions.model_fields} == {**DEFAULTS, **OURS}
  assert parse_flags([MODEL]) == ServerOptions(model_base_path="/models/m")
  assert all(field.description for field in ServerOptions.model_fields.values())
  assert set(DEFAULTS) > UNSUPPORTED | WITHOUT_EFFECT


def test_values_are_read_as_what_they_are():
  options = parse_flags(
    [
      MODEL,
      "--port=0",
      "--model_name",
      "m",
      "--file_system_poll_wait_seconds=0.5",
      "--saved_model_tags=serve,gpu",
    ]
  )
  assert (options.port, options.model_name, options.file_system_poll_wait_seconds) == (0, "m", 0.5)
  assert options.saved_model_tags == "serve,gpu"
  # The last one counts.
  assert parse_flags([MODEL, "--port=1", "--port=2"]).port == 2


@pytest.mark.parametrize(
  ("flags", "value"),
  [
    ([], False),
    (["--enable_batching"], True),
    (["--enable_batching=true"], True),
    (["--enable_batching=True"], True),
    (["--enable_batching=1"], True),
    (["--enable_batching=false"], False),
    (["--enable_batching", "--enable_batching=0"], False),
  ],
)
def test_booleans_as_tf_serving_takes_them(flags, value):
  assert parse_flags([MODEL, *flags]).enable_batching is value


def test_a_boolean_that_is_on_can_be_switched_off():
  assert parse_flags([MODEL]).enable_model_warmup is True
  assert parse_flags([MODEL, "--enable_model_warmup=false"]).enable_model_warmup is False


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "tell what to serve: --model_name=NAME --model_base_path=DIR, or --model_config_file=FILE"),
    ([MODEL, "--prot=1"], "unknown argument --prot=1; serving.server --help lists the flags"),
    ([MODEL, "--enable_batch"], "unknown argument --enable_batch; serving.server --help lists the flags"),
    ([MODEL, "models"], "unknown argument models; serving.server --help lists the flags"),
    ([MODEL, "--port=http"], "--port=http: input should be a valid integer"),
    ([MODEL, "--port=65536"], "--port=65536: input should be less than or equal to 65535"),
    ([MODEL, "--port"], "argument --port: expected one argument"),
    ([MODEL, "--enable_batching=maybe"], "--enable_batching=maybe: input should be a valid boolean"),
    ([MODEL, "--grpc_max_threads=0"], "--grpc_max_threads=0: input should be greater than 0"),
    ([MODEL, "--num_processes=0"], "--num_processes=0: input should be greater than 0"),
    ([MODEL, "--file_system_poll_wait_seconds=nan"], "--file_system_poll_wait_seconds=nan: input should be a f"),
    ([MODEL, "--model_name="], "--model_name=: string should have at least 1 character"),
    ([MODEL, "--rest_api_port=8500"], "--rest_api_port cannot be the same as --port"),
    (
      [MODEL, "--batching_parameters_file=b.config"],
      "--batching_parameters_file is set without --enable_batching",
    ),
    (
      [MODEL, "--tensorflow_session_parallelism=1", "--tensorflow_intra_op_parallelism=1",
       "--tensorflow_inter_op_parallelism=1"],
      "set either --tensorflow_session_parallelism or --tensorflow_intra_op_parallelism and",
    ),
    ([MODEL, "--use_alts_credentials"], "--use_alts_credentials is not supported by the embedded server"),
    ([MODEL, "--mixed_precision=bfloat16"], "--mixed_precision is not supported by the embedded server"),
    (
      [MODEL, "--per_process_gpu_memory_fraction=0.5"],
      "--per_process_gpu_memory_fraction is not supported by the embedded server",
    ),
  ],
)  # fmt: skip
def test_mistakes_are_one_line_with_status_2(capsys, flags, message):
  with pytest.raises(SystemExit) as ended:
    parse_flags(flags)
  output = capsys.readouterr()
  assert ended.value.code == 2 and output.out == ""
  assert output.err.startswith(f"serving.server: {message}") and output.err.count("\n") == 1


def test_what_is_not_supported_is_taken_at_its_default():
  flags = [f"--{name}={default_of(name)}" for name in sorted(UNSUPPORTED)]
  assert parse_flags([MODEL, *flags]) == parse_flags([MODEL])


def test_what_has_no_effect_is_told():
  options = parse_flags([MODEL, "--enable_profiler=false", "--num_unload_threads=2"])
  assert options.without_effect() == ["enable_profiler", "num_unload_threads"]
  assert parse_flags([MODEL]).without_effect() == []


def test_options_in_code_are_checked_too():
  with pytest.raises(pydantic.ValidationError, match="prot"):
    ServerOptions(prot=1)
  with pytest.raises(pydantic.ValidationError, match="frozen"):
    ServerOptions().port = 1


@pytest.mark.parametrize(
  ("values", "threads"),
  [
    ({}, (0, 0)),
    ({"tensorflow_session_parallelism": 3}, (3, 3)),
    ({"tensorflow_intra_op_parallelism": 2}, (2, 0)),
    ({"tensorflow_session_parallelism": 3, "tensorflow_inter_op_parallelism": 5}, (0, 5)),
  ],
)
def test_session_threads(values, threads):
  assert ServerOptions(**values).session_threads == threads


def test_rest_is_wanted_for_a_port_or_a_port_file():
  assert not ServerOptions().with_rest
  assert ServerOptions(rest_api_port=8501).with_rest
  assert ServerOptions(rest_port_file="port").with_rest


def test_help_lists_every_flag_without_tensorflow_or_grpc():
  code = (
    "import sys\nfrom serving.options import parse_flags\n"
    "try:\n  parse_flags(['--help'])\n"
    "except SystemExit as end:\n  print(end.code, {'tensorflow', 'grpc', 'numpy'} & set(sys.modules))"
  )
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.endswith("0 set()\n") and done.stderr == ""
  for name in ServerOptions.model_fields:
    assert f"--{name} " in done.stdout


def test_version_tells_the_versions(capsys):
  with pytest.raises(SystemExit) as ended:
    parse_flags(["--version"])
  assert ended.value.code == 0
  assert capsys.readouterr().out.splitlines() == ["deepline 0.1.0", "TensorFlow 2.16.2"]
