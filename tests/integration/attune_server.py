"""Starts a real attuned and speaks to it with plain grpcio: the stubs are generated from proto/."""
import atexit
import glob
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import grpc
import grpc_tools
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("ATTUNE_SERVER_BINARY", os.path.join(SOURCE, "build", "server", "attuned"))
MODEL = os.environ.get("ATTUNE_TEST_MODEL", "")


def _generate_stubs():
    """Generates attune.v1 into a temporary folder and puts that on the module path."""
    folder = tempfile.mkdtemp(prefix="attune_stubs.")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root = os.path.join(SOURCE, "proto")
    files = sorted(glob.glob(os.path.join(root, "attune", "v1", "*.proto")))
    known = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    arguments = ["protoc", f"-I{root}", f"-I{known}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, folder)


_generate_stubs()


def _module(name):
    return importlib.import_module(f"attune.v1.{name}")


tuning_job = _module("tuning_job_pb2")
tuning_service = _module("tuning_service_pb2")
dataset = _module("dataset_pb2")
dataset_service = _module("dataset_service_pb2")
model = _module("model_pb2")
model_service = _module("model_service_pb2")
generation = _module("generation_service_pb2")
evaluation = _module("evaluation_service_pb2")
advice = _module("advice_pb2")
advice_service = _module("advice_service_pb2")
comparison = _module("comparison_pb2")
comparison_service = _module("comparison_service_pb2")
alias = _module("alias_pb2")
alias_service = _module("alias_service_pb2")


class Server:
    """One attuned on free ports. The data folder stays when it stops, so that it can be started again."""

    def __init__(self, data_dir, flags=(), device="cpu"):
        self.data_dir = data_dir
        self.flags = ["--device", device, *flags]
        self.process = None
        self.log = data_dir + ".log"

    def start(self, timeout=120):
        """Starts the server and returns when it is ready."""
        command = [BINARY, "--data-dir", self.data_dir, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                   "--import-root", os.path.dirname(MODEL), *self.flags]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if not line.startswith("attuned listening ") or not {"grpc", "http"} <= set(words):
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            raise RuntimeError(f"attuned said {line!r}; its log ends with\n{self.log_tail()}")
        self.address, self.http = words["grpc"], words["http"]
        self._connect()
        deadline = time.monotonic() + timeout
        while self.get("/readyz")[0] != 200:
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError("attuned did not become ready")
            time.sleep(0.05)
        return self

    def _connect(self):
        self.channel = grpc.insecure_channel(self.address)
        stub = lambda name, service: getattr(_module(name + "_pb2_grpc"), service + "Stub")(self.channel)
        self.tuning = stub("tuning_service", "TuningService")
        self.datasets = stub("dataset_service", "DatasetService")
        self.models = stub("model_service", "ModelService")
        self.generation = stub("generation_service", "GenerationService")
        self.evaluation = stub("evaluation_service", "EvaluationService")
        self.advice = stub("advice_service", "AdviceService")
        self.comparisons = stub("comparison_service", "ComparisonService")
        self.aliases = stub("alias_service", "AliasService")

    def get(self, path):
        """(status, body) of an HTTP request."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, OSError):
            return 0, ""

    def terminate(self, timeout=90):
        """SIGTERM; the exit status."""
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        self.process.stdout.close()
        return status

    def kill(self):
        """SIGKILL, as a power cut would (the page cache survives)."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.channel.close()

    def log_tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-20:])

    # Shorthands for what every test does.

    def import_model(self, model_id="smollm2"):
        return self.models.ImportModel(model_service.ImportModelRequest(source_path=MODEL, model_id=model_id))

    def upload(self, dataset_id, data, chunk=64 * 1024, request_id="", sha256=None, skip_bad_rows=False, timeout=60,
               **fields):
        header = dataset_service.UploadDatasetRequest.Header(
            dataset=dataset.Dataset(**fields), dataset_id=dataset_id, request_id=request_id,
            skip_bad_rows=skip_bad_rows, sha256=hashlib.sha256(data).hexdigest() if sha256 is None else sha256)

        def messages():
            yield dataset_service.UploadDatasetRequest(header=header)
            for begin in range(0, len(data), chunk):
                yield dataset_service.UploadDatasetRequest(chunk=data[begin:begin + chunk])

        return self.datasets.UploadDataset(messages(), timeout=timeout)

    def create_job(self, job, job_id="", request_id=""):
        return self.tuning.CreateTuningJob(tuning_service.CreateTuningJobRequest(
            tuning_job=job, tuning_job_id=job_id, request_id=request_id))

    def get_job(self, name):
        return self.tuning.GetTuningJob(tuning_service.GetTuningJobRequest(name=name))

    def watch(self, name, after=0, timeout=600):
        return list(self.tuning.WatchTuningJob(
            tuning_service.WatchTuningJobRequest(name=name, after_sequence=after), timeout=timeout))

    def generate(self, model_name, text=None, **fields):
        prompt = fields.pop("prompt", None) or generation.Prompt(text=text)
        return self.generation.Generate(generation.GenerateRequest(model=model_name, prompt=prompt, **fields))


def lora_job(**fields):
    """A LoRA job that is as small as one can be; `fields` go into its hyperparameters or the job itself."""
    hyperparameters = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3, "evaluation_steps": -1}
    hyperparameters.update(fields.pop("hyperparameters", {}))
    job = tuning_job.TuningJob(
        base_model="models/smollm2", dataset="datasets/mood", lora=tuning_job.LoraTuning(rank=4),
        hyperparameters=tuning_job.Hyperparameters(**hyperparameters),
        data=tuning_job.DataOptions(max_sequence_tokens=48))
    job.MergeFrom(tuning_job.TuningJob(**fields))
    return job


def mood_rows(count):
    """A toy task as JSON lines: short texts that are glad or sad."""
    glad, sad = ["sunny", "kind", "bright", "lovely"], ["gloomy", "harsh", "dark", "dreadful"]
    things = ["day", "film", "meal", "song", "walk", "book", "house"]
    rows = []
    for i in range(count):
        words = (glad, sad)[i % 2]
        rows.append({"text": f"What a {words[i // 2 % 4]} {things[i // 3 % 7]} number {i}", "label": ("glad", "sad")[i % 2]})
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


MOOD = {"prompt_template": "Text: {{text}}\nMood:", "completion_template": " {{label}}"}


class Error:
    """What a failed call carries: code, message, reason, metadata and wrong fields."""

    def __init__(self, error):
        self.code, self.message = error.code(), error.details()
        self.reason, self.domain, self.metadata, self.fields = "", "", {}, []
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                self.reason, self.domain, self.metadata = info.reason, info.domain, dict(info.metadata)
            elif detail.Unpack(bad):
                self.fields = [violation.field for violation in bad.field_violations]

    def __repr__(self):
        return f"{self.code} {self.reason} {self.fields} {self.message!r}"
