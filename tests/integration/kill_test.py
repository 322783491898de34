"""Kills the server with SIGKILL at random moments under load: nothing accepted is lost, nothing is half there."""
import hashlib
import json
import os
import random
import shutil
import tempfile
import threading
import time
import unittest

import grpc
from attune_server import (MOOD, Server, dataset_service, generation, lora_job, model_service, mood_rows, tuning_job,
                           tuning_service)

State = tuning_job.TuningJob
KILLS = 10
STEPS = 120


def big_rows(seed, count=2000):
    """About 200 kB of rows, so that uploads take a while."""
    draw = random.Random(seed)
    return "".join(json.dumps({"text": " ".join(f"w{draw.randrange(1000)}" for _ in range(12)), "label": f"l{i % 5}"})
                   + "\n" for i in range(count)).encode()


class Load:
    """Uploads, small jobs and generation against one run of the server, until it dies.

    What got an OK is in `accepted_*`; what was tried is in `tried_*`.
    """

    def __init__(self, server, run):
        self.server, self.run = server, run
        self.tried_uploads, self.accepted_uploads = {}, {}
        self.tried_jobs, self.accepted_jobs = [], []
        self.generated = 0
        self.stopped = threading.Event()
        self.unexpected = []
        self.threads = [threading.Thread(target=self.repeat, args=(work,)) for work in
                        (self.upload, self.create_job, self.generate)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def join(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def repeat(self, work):
        count = 0
        while not self.stopped.is_set():
            try:
                work(count)
            except grpc.RpcError as error:
                # The kill breaks calls in these ways; anything else is a fault.
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    self.unexpected.append(f"{work.__name__}: {error.code()} {error.details()}")
                return
            except ValueError:
                return  # the channel was closed
            count += 1

    def upload(self, count):
        name = f"up-{self.run}-{count}"
        data = big_rows(name)
        self.tried_uploads[name] = data
        made = self.server.upload(name, data, chunk=16 * 1024, request_id=name, **MOOD)
        self.accepted_uploads[name] = made.sha256
        time.sleep(0.05)

    def create_job(self, count):
        name = f"small-{self.run}-{count}"
        self.tried_jobs.append(name)
        self.server.create_job(lora_job(priority=-50, hyperparameters={"max_steps": 1}), name, request_id=name)
        self.accepted_jobs.append(name)
        time.sleep(1)

    def generate(self, count):
        request = generation.GenerateRequest(model="models/smollm2", prompt=generation.Prompt(text=f"Story {count}:"),
                                             max_tokens=64, ignore_eos=True)
        for piece in self.server.generation.StreamGenerate(request):
            self.generated += bool(piece.text)


class KillTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="attune_kill.")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.server = Server(os.path.join(self.folder, "data"))
        self.addCleanup(self.kill_leftover)
        self.uploads, self.possible_uploads = {}, {}
        self.jobs, self.possible_jobs = set(), set()
        self.events, self.checkpoint = [], 0

    def kill_leftover(self):
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.kill()

    def list_all(self, call, request, field):
        items, token = [], ""
        while True:
            page = call(request(page_size=50, page_token=token))
            items += getattr(page, field)
            token = page.next_page_token
            if not token:
                return items

    def check_datasets(self):
        listed = {item.name.split("/")[1]: item for item in
                  self.list_all(self.server.datasets.ListDatasets, dataset_service.ListDatasetsRequest, "datasets")}
        self.assertIn("mood", listed)
        for name, sha256 in self.uploads.items():
            self.assertIn(name, listed, "an accepted dataset is lost")
            self.assertEqual(listed[name].sha256, sha256)
        # What is there without an answer having come is there whole.
        for name, item in listed.items():
            if name == "mood":
                continue
            self.assertIn(name, self.possible_uploads)
            data = self.possible_uploads[name]
            self.assertEqual(item.sha256, hashlib.sha256(data).hexdigest())
            self.assertEqual((item.row_count, item.size_bytes), (2000, len(data)))
        if listed.keys() - {"mood"}:
            name = random.choice(sorted(listed.keys() - {"mood"}))
            shown = self.server.datasets.PreviewDataset(dataset_service.PreviewDatasetRequest(
                name=f"datasets/{name}", model="models/smollm2", count=1, offset=1999))
            self.assertEqual(shown.examples[0].row, 1999)

    def retry_unanswered_uploads(self):
        """The same request again succeeds, whether or not it had got through."""
        for name in self.possible_uploads.keys() - self.uploads.keys():
            data = self.possible_uploads[name]
            made = self.server.upload(name, data, request_id=name, **MOOD)
            self.assertEqual(made.sha256, hashlib.sha256(data).hexdigest())
            self.uploads[name] = made.sha256

    def check_jobs(self):
        listed = {job.name.split("/")[1]: job for job in
                  self.list_all(self.server.tuning.ListTuningJobs, tuning_service.ListTuningJobsRequest, "tuning_jobs")}
        self.assertLessEqual(self.jobs, listed.keys(), "an accepted job is lost")
        self.assertLessEqual(listed.keys() - {"victim"}, self.possible_jobs)
        for job in listed.values():
            self.assertNotIn(job.state, (State.FAILED, State.CANCELLED, State.PAUSED), job)
            self.assertTrue(job.HasField("lora"))

    def check_victim(self):
        name = "tuningJobs/victim"
        checkpoints = self.server.tuning.ListCheckpoints(
            tuning_service.ListCheckpointsRequest(parent=name)).checkpoints
        newest = max((checkpoint.step for checkpoint in checkpoints), default=0)
        self.assertGreaterEqual(newest, self.checkpoint, "a checkpoint that was reported is lost")
        job = self.server.get_job(name)
        self.assertGreaterEqual(job.progress.step, self.checkpoint)
        # Every event that a client saw is still there, unchanged.
        if self.events:
            again = []
            for event in self.server.tuning.WatchTuningJob(tuning_service.WatchTuningJobRequest(name=name), timeout=60):
                again.append(event)
                if event.sequence >= self.events[-1].sequence:
                    break
            self.assertEqual([event.sequence for event in again], list(range(1, len(again) + 1)))
            self.assertEqual(again[:len(self.events)], self.events)

    def watch_victim(self):
        """Follows the job from the last event seen until the server dies."""
        try:
            for event in self.server.tuning.WatchTuningJob(tuning_service.WatchTuningJobRequest(
                    name="tuningJobs/victim", after_sequence=len(self.events)), timeout=600):
                self.events.append(event)
                if event.type == tuning_job.JobEvent.CHECKPOINT:
                    self.checkpoint = max(self.checkpoint, event.checkpoint.step)
        except (grpc.RpcError, ValueError):
            pass

    def run_and_kill(self, run, seconds):
        load = Load(self.server, run)
        watcher = threading.Thread(target=self.watch_victim)
        watcher.start()
        load.start()
        time.sleep(seconds)
        # On a slow machine no run may be long enough for a step: the last one waits for it.
        patience = 300 if run == KILLS - 1 else 0
        while self.checkpoint == 0 and patience > 0 and self.server.process.poll() is None:
            time.sleep(0.5)
            patience -= 0.5
        self.assertIsNone(self.server.process.poll(), "the server died by itself:\n" + self.server.log_tail())
        self.server.kill()
        load.join()
        watcher.join()
        self.assertEqual(load.unexpected, [])
        self.uploads.update(load.accepted_uploads)
        self.possible_uploads.update(load.tried_uploads)
        self.jobs.update(load.accepted_jobs)
        self.possible_jobs.update(load.tried_jobs)
        return load

    def test_nothing_accepted_is_lost(self):
        seed = int(os.environ.get("ATTUNE_KILL_SEED", random.randrange(1 << 30)))
        print(f"kill_test: ATTUNE_KILL_SEED={seed}", flush=True)
        draw = random.Random(seed)
        self.server.start()
        self.server.import_model()
        self.server.upload("mood", mood_rows(60), **MOOD)
        self.server.create_job(lora_job(priority=50, tuned_model_id="survivor",
                                        hyperparameters={"max_steps": STEPS, "checkpoint_steps": 1}), "victim")
        generated = 0
        for run in range(KILLS):
            generated += self.run_and_kill(run, draw.uniform(0.3, 7)).generated
            self.server.start()
            self.check_datasets()
            self.check_jobs()
            self.check_victim()
            self.retry_unanswered_uploads()
            self.server.models.GetModel(model_service.GetModelRequest(name="models/smollm2"))
        self.assertGreater(len(self.uploads), KILLS, "the load was no load")
        self.assertGreater(generated, 0)
        self.assertGreater(self.checkpoint, 0, "the job never came as far as a checkpoint")
        print(f"kill_test: {len(self.uploads)} datasets, {len(self.jobs)} jobs, checkpoint {self.checkpoint}", flush=True)

        # The job ends well, having taken each step once from its last checkpoint.
        self.watch_victim()
        job = self.server.get_job("tuningJobs/victim")
        self.assertEqual((job.state, job.progress.step), (State.SUCCEEDED, STEPS), job)
        self.assertEqual([event.sequence for event in self.events], list(range(1, len(self.events) + 1)))
        self.assertTrue(self.server.generate("models/survivor", "Text: What a day\nMood:", max_tokens=4)
                        .completions[0].token_ids)
        self.assertEqual(self.server.terminate(), 0)


if __name__ == "__main__":
    unittest.main()
