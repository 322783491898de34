"""Drives every service of a real server with the stubs that any Python client would generate."""
import concurrent.futures
import json
import math
import os
import shutil
import tempfile
import time
import unittest

import grpc
from attune_server import (MOOD, Error, Server, dataset, dataset_service, evaluation, generation, lora_job, model,
                           model_service, mood_rows, tuning_job, tuning_service)
from google.protobuf import field_mask_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

State = tuning_job.TuningJob
Code = grpc.StatusCode


class ServicesTest(unittest.TestCase):
    """All tests share one server with the model, a dataset and a finished LoRA job."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="attune_services.")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.server = Server(os.path.join(cls.folder, "data")).start()
        cls.addClassCleanup(cls.stop)
        cls.base = cls.server.import_model()
        cls.mood = cls.server.upload("mood", mood_rows(60), **MOOD)
        cls.job = cls.server.create_job(lora_job(tuned_model_id="mood-lora"), "first", request_id="first-request")
        cls.events = cls.server.watch(cls.job.name)
        cls.done = cls.server.get_job(cls.job.name)
        assert cls.done.state == State.SUCCEEDED, (cls.done, cls.server.log_tail())

    @classmethod
    def stop(cls):
        if cls.server.process.poll() is None:
            cls.server.terminate()

    def fails(self, code, reason, call, *arguments, **keywords):
        """Checks that a call (or reading its stream) fails so; returns the error."""
        with self.assertRaises(grpc.RpcError) as context:
            result = call(*arguments, **keywords)
            if hasattr(result, "__next__"):
                list(result)
        error = Error(context.exception)
        self.assertEqual((error.code, error.reason), (code, reason), error)
        self.assertEqual(error.domain, "attune.dev")
        self.assertTrue(error.message)
        return error

    # Models.

    def test_imported_model(self):
        self.assertEqual(self.base.name, "models/smollm2")
        self.assertEqual(self.base.state, model.Model.READY)
        self.assertEqual(self.base.kind, model.Model.BASE)
        shape = self.base.architecture
        self.assertEqual((shape.family, shape.layers, shape.hidden_size, shape.key_value_heads, shape.vocabulary_size),
                         ("llama", 30, 576, 3, 49152))
        self.assertGreater(self.base.size_bytes, 50_000_000)
        got = self.server.models.GetModel(model_service.GetModelRequest(name="models/smollm2"))
        self.assertEqual(got.architecture, shape)

    def test_import_refuses_what_it_must(self):
        request = model_service.ImportModelRequest
        self.fails(Code.PERMISSION_DENIED, "OUTSIDE_IMPORT_ROOT", self.server.models.ImportModel,
                   request(source_path="/etc/passwd", model_id="passwd"))
        with self.assertRaises(grpc.RpcError) as context:
            self.server.import_model("smollm2")
        self.assertEqual(context.exception.code(), Code.ALREADY_EXISTS)
        with self.assertRaises(grpc.RpcError) as context:
            self.server.import_model("Not An Id")
        self.assertEqual(Error(context.exception).fields, ["model_id"])

    def test_update_model(self):
        request, mask = model_service.UpdateModelRequest, field_mask_pb2.FieldMask
        before = self.server.models.GetModel(model_service.GetModelRequest(name="models/mood-lora"))
        after = self.server.models.UpdateModel(request(
            model=model.Model(name="models/mood-lora", display_name="Mood", description="ignored", etag=before.etag),
            update_mask=mask(paths=["display_name"])))
        self.assertEqual((after.display_name, after.description), ("Mood", before.description))
        self.assertNotEqual(after.etag, before.etag)
        stale = request(model=model.Model(name="models/mood-lora", display_name="Late", etag=before.etag),
                        update_mask=mask(paths=["display_name"]))
        with self.assertRaises(grpc.RpcError) as context:
            self.server.models.UpdateModel(stale)
        self.assertEqual(context.exception.code(), Code.ABORTED)
        for paths in ([], ["kind"]):
            with self.assertRaises(grpc.RpcError) as context:
                self.server.models.UpdateModel(request(model=model.Model(name="models/mood-lora"),
                                                       update_mask=mask(paths=paths)))
            self.assertEqual(context.exception.code(), Code.INVALID_ARGUMENT)

    def test_base_of_an_adapter_cannot_be_deleted(self):
        with self.assertRaises(grpc.RpcError) as context:
            self.server.models.DeleteModel(model_service.DeleteModelRequest(name="models/smollm2"))
        self.assertEqual(context.exception.code(), Code.FAILED_PRECONDITION)
        self.server.models.GetModel(model_service.GetModelRequest(name="models/smollm2"))

    def test_unknown_model(self):
        error = self.fails(Code.NOT_FOUND, "MODEL_NOT_FOUND", self.server.models.GetModel,
                           model_service.GetModelRequest(name="models/none"))
        self.assertEqual(error.metadata["name"], "models/none")
        self.fails(Code.NOT_FOUND, "MODEL_NOT_FOUND", self.server.generate, "models/none", "Hello")

    def test_export_gives_a_peft_adapter(self):
        answer = self.server.models.ExportModel(model_service.ExportModelRequest(
            name="models/mood-lora", format=model_service.ExportModelRequest.PEFT, destination="exported"))
        self.assertLessEqual({"adapter_config.json", "adapter_model.safetensors"}, set(answer.files))
        with open(os.path.join(answer.path, "adapter_config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self.assertEqual((config["peft_type"], config["r"], config["lora_alpha"]), ("LORA", 4, 8))
        with open(os.path.join(answer.path, "README.md"), encoding="utf-8") as file:
            card = file.read()
        for text in ("- Dataset: ", "| rank | 4 |", "| learning rate | ", "## Cost of tuning", "## Limits"):
            self.assertIn(text, card)
        from safetensors import safe_open
        with safe_open(os.path.join(answer.path, "adapter_model.safetensors"), "numpy") as tensors:
            names = set(tensors.keys())
            stem = "base_model.model.model.layers.0.self_attn.q_proj"
            self.assertIn(f"{stem}.lora_A.weight", names)
            self.assertEqual(tensors.get_tensor(f"{stem}.lora_A.weight").shape, (4, 576))
            self.assertEqual(tensors.get_tensor(f"{stem}.lora_B.weight").shape, (576, 4))
            # B starts at zero: training moved it.
            self.assertGreater(abs(tensors.get_tensor(f"{stem}.lora_B.weight")).max(), 0)
        self.assertEqual(len(names), 30 * 7 * 2)
        with self.assertRaises(grpc.RpcError) as context:
            self.server.models.ExportModel(model_service.ExportModelRequest(name="models/mood-lora",
                                                                            destination="../outside"))
        self.assertIn(context.exception.code(), (Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED))

    def test_an_exported_adapter_comes_back_the_same(self):
        exported = self.server.models.ExportModel(model_service.ExportModelRequest(
            name="models/mood-lora", format=model_service.ExportModelRequest.PEFT, destination="to-import"))
        source = os.path.join(self.server.data_dir, "import", "mood-again")
        shutil.copytree(exported.path, source)
        request = model_service.ImportModelRequest
        with self.assertRaises(grpc.RpcError) as context:
            self.server.models.ImportModel(request(source_path=source))
        self.assertEqual(Error(context.exception).fields, ["base_model"])
        again = self.server.models.ImportModel(request(source_path=source, base_model="models/smollm2"))
        self.assertEqual((again.name, again.kind, again.base_model), ("models/mood-again", model.Model.LORA, "models/smollm2"))
        answers = [self.server.generation.Classify(generation.ClassifyRequest(
            model=name, prompt=generation.Prompt(text="Text: What a dreadful day\nMood:"), choices=["glad", "sad"]))
            for name in ("models/mood-lora", "models/mood-again")]
        for first, second in zip(*(answer.choices for answer in answers)):
            self.assertEqual(first.label, second.label)
            self.assertAlmostEqual(first.probability, second.probability, delta=0.01)

    # Datasets.

    def test_uploaded_dataset(self):
        self.assertEqual(self.mood.name, "datasets/mood")
        self.assertEqual((self.mood.row_count, self.mood.state), (60, dataset.Dataset.READY))
        self.assertEqual(self.mood.kind, dataset.Dataset.PROMPT_COMPLETION)
        self.assertEqual(list(self.mood.columns), ["label", "text"])

    def test_failed_uploads_leave_nothing(self):
        rows = mood_rows(4)
        self.fails(Code.DATA_LOSS, "CHECKSUM_MISMATCH", self.server.upload, "broken", rows, sha256="0" * 64, **MOOD)
        bad = rows + b'{"text": "no label"}\nnot json\n'
        error = self.fails(Code.INVALID_ARGUMENT, "BAD_ROWS", self.server.upload, "broken", bad, **MOOD)
        self.assertIn("5", error.message + str(error.metadata))
        self.fails(Code.NOT_FOUND, "DATASET_NOT_FOUND", self.server.datasets.GetDataset,
                   dataset_service.GetDatasetRequest(name="datasets/broken"))
        skipped = self.server.upload("skipped", bad, skip_bad_rows=True, **MOOD)
        self.assertEqual((skipped.row_count, skipped.skipped_row_count), (4, 2))
        self.assertEqual([error.line for error in skipped.row_errors], [5, 6])

    def test_upload_is_idempotent_by_request_id(self):
        first = self.server.upload("once", mood_rows(4), request_id="once-1", **MOOD)
        again = self.server.upload("once", mood_rows(4), request_id="once-1", **MOOD)
        self.assertEqual(first, again)
        with self.assertRaises(grpc.RpcError) as context:
            self.server.upload("once", mood_rows(4), request_id="once-2", **MOOD)
        self.assertEqual(context.exception.code(), Code.ALREADY_EXISTS)

    def test_csv_with_column_mapping(self):
        data = 'body,topic\r\n"a, ""quoted""\nstory",glad\r\nplain,sad\r\n'.encode()
        made = self.server.upload("csv", data, chunk=7, column_mapping={"body": "text", "topic": "label"}, **MOOD)
        self.assertEqual((made.format, made.row_count), (dataset.Dataset.CSV, 2))
        shown = self.server.datasets.PreviewDataset(dataset_service.PreviewDatasetRequest(
            name="datasets/csv", model="models/smollm2", count=1)).examples[0]
        self.assertEqual(shown.prompt, 'Text: a, "quoted"\nstory\nMood:')

    def test_preview_shows_where_the_loss_is(self):
        shown = self.server.datasets.PreviewDataset(dataset_service.PreviewDatasetRequest(
            name="datasets/mood", model="models/smollm2", count=2, offset=1)).examples
        self.assertEqual([example.row for example in shown], [1, 2])
        example = shown[0]
        self.assertEqual((example.prompt, example.completion), ("Text: What a gloomy day number 1\nMood:", " sad"))
        trained = [token for token in example.tokens if token.has_loss]
        self.assertEqual("".join(token.text for token in trained[:-1]), " sad")
        # The end token is trained, so that tuned models stop; nothing before the answer is.
        self.assertEqual(trained[-1], example.tokens[-1])
        self.assertTrue(all(token.has_loss for token in list(example.tokens)[-len(trained):]))

    def test_paging(self):
        for i in range(5):
            self.server.upload(f"page-{i}", mood_rows(2), **MOOD)
        names, token = [], ""
        while True:
            page = self.server.datasets.ListDatasets(dataset_service.ListDatasetsRequest(page_size=2, page_token=token))
            self.assertLessEqual(len(page.datasets), 2)
            names += [item.name for item in page.datasets]
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual([name for name in names if "/page-" in name], [f"datasets/page-{i}" for i in range(4, -1, -1)])
        first = self.server.datasets.ListDatasets(dataset_service.ListDatasetsRequest(page_size=1))
        self.fails(Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", self.server.models.ListModels,
                   model_service.ListModelsRequest(page_token=first.next_page_token))

    def test_delete_dataset(self):
        self.server.upload("brief", mood_rows(2), **MOOD)
        self.server.datasets.DeleteDataset(dataset_service.DeleteDatasetRequest(name="datasets/brief"))
        self.fails(Code.NOT_FOUND, "DATASET_NOT_FOUND", self.server.datasets.GetDataset,
                   dataset_service.GetDatasetRequest(name="datasets/brief"))

    # Tuning.

    def test_events_tell_the_whole_story(self):
        self.assertEqual([event.sequence for event in self.events], list(range(1, len(self.events) + 1)))
        states = [event.state for event in self.events if event.type == tuning_job.JobEvent.STATE_CHANGED]
        self.assertEqual(states, [State.QUEUED, State.PREPARING, State.RUNNING, State.SUCCEEDED])
        # An evaluation tells the progress, too; right before it none is told apart.
        steps = [event.progress.step for event in self.events
                 if event.type in (tuning_job.JobEvent.PROGRESS, tuning_job.JobEvent.EVALUATION)]
        self.assertEqual(steps, sorted(steps))
        self.assertEqual(steps[-1], 3)
        self.assertIn(tuning_job.JobEvent.CHECKPOINT, [event.type for event in self.events])
        rest = self.server.watch(self.job.name, after=2)
        self.assertEqual(rest, self.events[2:])

    def test_text_prompt_job_publishes_a_prompt_that_serves(self):
        search = tuning_job.TextPromptSearch(instructions=["Is the mood glad or sad?"], max_examples=4, candidates=4,
                                             rounds=1, max_calls=120)
        job = self.server.create_job(tuning_job.TuningJob(
            base_model="models/smollm2", dataset="datasets/mood", tuned_model_id="mood-text", text_prompt=search), "text")
        events = self.server.watch(job.name)
        done = self.server.get_job(job.name)
        self.assertEqual(done.state, State.SUCCEEDED, (done, self.server.log_tail()))
        self.assertLessEqual(done.progress.step, 120)
        self.assertTrue(any("round 1 of 1: label accuracy" in event.message for event in events))
        tuned = self.server.models.GetModel(model_service.GetModelRequest(name=done.tuned_model))
        self.assertEqual((tuned.kind, tuned.base_model, tuned.tuning_job),
                         (model.Model.TEXT_PROMPT, "models/smollm2", "tuningJobs/text"))
        self.assertTrue(tuned.prompt_template.endswith(":") and "{{text}}" in tuned.prompt_template)
        self.assertGreaterEqual(tuned.metrics["validation_score"], tuned.metrics["baseline_score"])
        prompt = self.server.models.GetTextPrompt(model_service.GetTextPromptRequest(name=tuned.name))
        self.assertGreater(len(prompt.trials), 0)

        ask = generation.ClassifyRequest(
            model=tuned.name, choices=["glad", "sad"],
            prompt=generation.Prompt(template_input=generation.TemplateInput(variables={"text": "What a kind song"})))
        self.server.generation.Classify(ask)
        again = self.server.generation.Classify(ask)
        # The prompt's beginning is known by then, whole pages of it.
        self.assertGreaterEqual(again.usage.cached_prompt_tokens, again.usage.prompt_tokens // 2)
        self.assertAlmostEqual(sum(choice.probability for choice in again.choices), 1, places=5)

        prompt.instruction = "Say {{which}} mood it is."
        edited = self.server.models.CreateTextPrompt(model_service.CreateTextPromptRequest(
            base_model="models/smollm2", text_prompt=prompt, model_id="mood-text-v2"))
        self.assertTrue(edited.prompt_template.startswith("Say \\{{which}} mood it is."))
        ask.model = edited.name
        self.server.generation.Classify(ask)
        self.fails(Code.FAILED_PRECONDITION, "BASE_IS_ADAPTER", self.server.create_job,
                   lora_job(base_model="models/mood-text-v2"))
        exported = self.server.models.ExportModel(model_service.ExportModelRequest(name=edited.name))
        self.assertEqual(list(exported.files), ["README.md", "text_prompt.json"])
        self.server.models.DeleteModel(model_service.DeleteModelRequest(name=edited.name))

    def test_a_prompt_retrieves_the_example_that_is_like_the_input(self):
        rows = [{"text": "The central bank raised its interest rates", "label": "money"},
                {"text": "A striped cat sleeps on the sofa", "label": "animals"}]
        pool = model.TextPrompt.ExamplePool(retrieved_examples=1,
                                            examples=[model.TextPrompt.Example(columns=row) for row in rows])
        made = self.server.models.CreateTextPrompt(model_service.CreateTextPromptRequest(
            base_model="models/smollm2", model_id="topics",
            text_prompt=model.TextPrompt(input_template="Text: {{text}}\nTopic:", output_template=" {{label}}", pool=pool)))
        for text, like, unlike in (("Banks expect higher interest rates", "central bank", "cat"),
                                   ("My cat likes to sleep", "striped cat", "bank")):
            variables = generation.Prompt(template_input=generation.TemplateInput(variables={"text": text}))
            tokens = self.server.generation.Tokenize(generation.TokenizeRequest(model=made.name, prompt=variables))
            prompt = self.server.generation.Detokenize(generation.DetokenizeRequest(
                model=made.name, token_ids=tokens.token_ids)).text
            self.assertIn(like, prompt)
            self.assertNotIn(unlike, prompt.replace(text, ""))
            self.assertTrue(prompt.endswith(f"Text: {text}\nTopic:"), prompt)
            answer = self.server.generation.Generate(generation.GenerateRequest(
                model=made.name, prompt=variables, max_tokens=2))
            self.assertEqual(answer.usage.prompt_tokens, len(tokens.token_ids))
        again = self.server.models.GetTextPrompt(model_service.GetTextPromptRequest(name=made.name))
        self.assertEqual([len(example.embedding) for example in again.pool.examples], [576, 576])
        self.server.models.DeleteModel(model_service.DeleteModelRequest(name=made.name))

    def test_finished_job(self):
        self.assertEqual(self.done.tuned_model, "models/mood-lora")
        self.assertEqual(self.done.data_report.train_examples + self.done.data_report.validation_examples, 60)
        self.assertEqual(self.done.resolved_hyperparameters.max_steps, 3)
        self.assertGreater(self.done.training_seconds, 0)
        if self.done.HasField("energy_joules"):  # where the machine tells: no zero elsewhere
            self.assertGreater(self.done.energy_joules, 0)
        self.assertTrue(self.done.HasField("end_time"))
        tuned = self.server.models.GetModel(model_service.GetModelRequest(name="models/mood-lora"))
        self.assertEqual((tuned.kind, tuned.base_model, tuned.tuning_job),
                         (model.Model.LORA, "models/smollm2", "tuningJobs/first"))
        self.assertEqual((tuned.prompt_template, tuned.completion_template), tuple(MOOD.values()))
        again = self.server.create_job(lora_job(tuned_model_id="mood-lora"), "first", request_id="first-request")
        self.assertEqual(again.name, self.job.name)
        checkpoints = self.server.tuning.ListCheckpoints(tuning_service.ListCheckpointsRequest(parent=self.job.name))
        self.assertEqual(checkpoints.checkpoints[0].step, 3)
        with self.assertRaises(grpc.RpcError) as context:
            self.server.tuning.CancelTuningJob(tuning_service.CancelTuningJobRequest(name=self.job.name))
        self.assertEqual(context.exception.code(), Code.FAILED_PRECONDITION)

    def test_wrong_jobs_are_refused_with_the_field(self):
        job = lora_job()
        job.lora.rank = 1000
        with self.assertRaises(grpc.RpcError) as context:
            self.server.create_job(job)
        error = Error(context.exception)
        self.assertEqual((error.code, error.fields), (Code.INVALID_ARGUMENT, ["tuning_job.lora.rank"]), error)
        without = lora_job()
        without.ClearField("method")
        with self.assertRaises(grpc.RpcError) as context:
            self.server.create_job(without)
        self.assertEqual(context.exception.code(), Code.INVALID_ARGUMENT)
        self.fails(Code.NOT_FOUND, "DATASET_NOT_FOUND", self.server.create_job, lora_job(dataset="datasets/none"))
        self.fails(Code.NOT_FOUND, "MODEL_NOT_FOUND", self.server.create_job, lora_job(base_model="models/none"))
        self.fails(Code.NOT_FOUND, "TUNING_JOB_NOT_FOUND", self.server.get_job, "tuningJobs/none")

    def test_estimate(self):
        estimate = self.server.tuning.EstimateTuningJob(
            tuning_service.EstimateTuningJobRequest(tuning_job=lora_job(hyperparameters={"max_steps": 7})))
        self.assertEqual(estimate.total_steps, 7)
        # Rank 4 on all seven linears of 30 layers.
        each = sum(4 * (a + b) for a, b in [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536),
                                            (1536, 576)])
        self.assertEqual(estimate.trainable_parameters, 30 * each)
        self.assertGreater(estimate.peak_memory_bytes, 0)
        self.assertTrue(estimate.admissible)

    def wait_for(self, name, states, seconds=120):
        deadline = time.monotonic() + seconds
        while True:
            job = self.server.get_job(name)
            if job.state in states:
                return job
            self.assertLess(time.monotonic(), deadline, job)
            time.sleep(0.05)

    def test_adapter_over_a_quantised_base(self):
        settings = {"quantization": "nf4", "optimizer_state": "int8"}
        plain, small = (self.server.tuning.EstimateTuningJob(tuning_service.EstimateTuningJobRequest(
            tuning_job=lora_job(hyperparameters=given))) for given in ({}, settings))
        # The estimate holds the quantised weights: half a byte and a sixteenth for each of 106 million.
        self.assertGreater(small.peak_memory_bytes - plain.peak_memory_bytes, 50e6)
        name = self.server.create_job(lora_job(hyperparameters=settings, tuned_model_id="mood-qlora"), "qlora").name
        job = self.wait_for(name, (tuning_job.TuningJob.SUCCEEDED, tuning_job.TuningJob.FAILED))
        self.assertEqual(job.state, tuning_job.TuningJob.SUCCEEDED, job)
        self.assertEqual(job.resolved_hyperparameters.quantization, "nf4")
        self.assertEqual(job.resolved_hyperparameters.optimizer_state, "int8")
        # Measured: those weights, and what training them took.
        self.assertGreater(job.progress.peak_memory_bytes, 50e6)
        self.assertLess(job.progress.peak_memory_bytes, 1.2 * small.peak_memory_bytes)
        variables = generation.Prompt(template_input=generation.TemplateInput(variables={"text": "A fine day"}))
        answer = self.server.generate("models/mood-qlora", prompt=variables, max_tokens=4)
        self.assertTrue(answer.completions[0].token_ids)
        full = lora_job(hyperparameters=settings)
        full.full.SetInParent()
        with self.assertRaises(grpc.RpcError) as context:
            self.server.create_job(full)
        error = Error(context.exception)
        self.assertEqual((error.code, error.fields),
                         (Code.INVALID_ARGUMENT, ["tuning_job.hyperparameters.quantization"]), error)

    def finished(self, job, job_id):
        name = self.server.create_job(job, job_id).name
        done = self.wait_for(name, (State.SUCCEEDED, State.FAILED))
        self.assertEqual(done.state, State.SUCCEEDED, done)
        return done

    def test_preferences_from_a_tuned_models_values(self):
        rows = "".join(json.dumps({"text": f"It is day {i}", "chosen": "glad", "rejected": "sad"}) + "\n"
                       for i in range(24)).encode()
        pairs = self.server.upload("pairs", rows, prompt_template=MOOD["prompt_template"],
                                   completion_template=" {{completion}}")
        self.assertEqual(pairs.kind, dataset.Dataset.PREFERENCE)
        preview = self.server.datasets.PreviewDataset(dataset_service.PreviewDatasetRequest(
            name=pairs.name, model="models/smollm2", count=2))
        self.assertEqual([example.completion for example in preview.examples], [" glad", " sad"])
        job = lora_job(tuned_model_id="mood-dpo", start_from="models/mood-lora")
        job.dataset = pairs.name
        job.dpo.beta = 0.3
        done = self.finished(job, "preferences")
        self.assertEqual((done.start_from, done.dpo.beta), ("models/mood-lora", 0.3))
        self.assertGreater(done.progress.reward_margin, 0)
        self.assertGreater(done.progress.validation_preference_accuracy, 0.5)
        tuned = self.server.models.GetModel(model_service.GetModelRequest(name="models/mood-dpo"))
        self.assertEqual(tuned.metrics["validation_preference_accuracy"], done.progress.validation_preference_accuracy)
        wrong = lora_job(start_from="models/mood-lora")
        wrong.lora.rank = 3
        with self.assertRaises(grpc.RpcError) as context:
            self.server.create_job(wrong)
        error = Error(context.exception)
        self.assertEqual((error.code, error.fields), (Code.INVALID_ARGUMENT, ["tuning_job.lora.rank"]), error)
        plain = lora_job()
        plain.dataset = pairs.name
        self.fails(Code.INVALID_ARGUMENT, "PREFERENCE_DATA", self.server.create_job, plain)

    def test_a_checkpoint_is_a_start_and_a_model_a_teacher(self):
        job = lora_job(tuned_model_id="mood-pupil", start_from="tuningJobs/first/checkpoints/3",
                       hyperparameters={"neftune_noise_alpha": 1})
        job.distillation.teacher = "models/mood-lora"
        job.distillation.weight = 1
        done = self.finished(job, "pupil")
        # It begins as its teacher, from whom noise alone tells it apart; over the base model the loss begins above 0.6.
        first = [event.progress for event in self.server.watch(done.name) if event.progress.step == 1][0]
        self.assertGreater(first.train_loss, 0)
        self.assertLess(first.train_loss, 0.1)
        self.assertLess(done.progress.validation_loss, 0.4)
        self.fails(Code.NOT_FOUND, "CHECKPOINT_NOT_FOUND", self.server.create_job,
                   lora_job(start_from="tuningJobs/first/checkpoints/99"))

    def test_pause_resume_cancel_delete(self):
        # Waits for its own first step, so that pausing meets a job at work.
        name = self.server.create_job(lora_job(hyperparameters={"max_steps": 100000}), "long").name
        for event in self.server.tuning.WatchTuningJob(tuning_service.WatchTuningJobRequest(name=name), timeout=120):
            if event.type == tuning_job.JobEvent.PROGRESS and event.progress.step >= 1:
                break
        self.server.tuning.PauseTuningJob(tuning_service.PauseTuningJobRequest(name=name))
        paused = self.wait_for(name, [State.PAUSED])
        self.assertGreaterEqual(paused.progress.step, 1)
        with self.assertRaises(grpc.RpcError) as context:
            self.server.tuning.DeleteTuningJob(tuning_service.DeleteTuningJobRequest(name=name))
        self.assertEqual(context.exception.code(), Code.FAILED_PRECONDITION)
        with self.assertRaises(grpc.RpcError) as context:
            self.server.datasets.DeleteDataset(dataset_service.DeleteDatasetRequest(name="datasets/mood"))
        self.assertEqual(context.exception.code(), Code.FAILED_PRECONDITION)
        self.server.tuning.ResumeTuningJob(tuning_service.ResumeTuningJobRequest(name=name))
        running = self.wait_for(name, [State.RUNNING])
        with self.assertRaises(grpc.RpcError) as context:
            self.server.tuning.CancelTuningJob(tuning_service.CancelTuningJobRequest(name=name, etag="stale"))
        self.assertEqual(context.exception.code(), Code.ABORTED)
        self.server.tuning.CancelTuningJob(tuning_service.CancelTuningJobRequest(name=name))
        cancelled = self.wait_for(name, [State.CANCELLED])
        self.assertGreaterEqual(cancelled.progress.step, paused.progress.step)
        self.assertGreaterEqual(cancelled.progress.step, running.progress.step)
        self.assertEqual(self.server.watch(name)[-1].state, State.CANCELLED)
        self.server.tuning.DeleteTuningJob(tuning_service.DeleteTuningJobRequest(name=name))
        self.fails(Code.NOT_FOUND, "TUNING_JOB_NOT_FOUND", self.server.get_job, name)

    def test_list_jobs_by_state_and_tenant(self):
        listed = self.server.tuning.ListTuningJobs(tuning_service.ListTuningJobsRequest(states=[State.SUCCEEDED]))
        self.assertIn("tuningJobs/first", [job.name for job in listed.tuning_jobs])
        listed = self.server.tuning.ListTuningJobs(tuning_service.ListTuningJobsRequest(tenant="nobody"))
        self.assertEqual(len(listed.tuning_jobs), 0)

    # Generation.

    PROMPT = "The capital of France is"

    def greedy(self, model_name="models/smollm2", **fields):
        return self.server.generate(model_name, self.PROMPT, sampling=generation.SamplingOptions(temperature=0),
                                    **fields)

    def test_greedy_generation(self):
        answer = self.greedy(max_tokens=8, ignore_eos=True)
        self.assertIn("Paris", answer.completions[0].text)
        self.assertEqual(answer.completions[0].finish_reason, generation.LENGTH)
        self.assertEqual(len(answer.completions[0].token_ids), 8)
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (5, 8))
        self.assertGreater(answer.usage.total_seconds, 0)
        self.assertLessEqual(answer.usage.time_to_first_token_seconds, answer.usage.total_seconds)
        self.assertEqual(answer.completions[0].text, self.greedy(max_tokens=8, ignore_eos=True).completions[0].text)

    def test_stream_says_the_same(self):
        request = generation.GenerateRequest(
            model="models/smollm2", prompt=generation.Prompt(text=self.PROMPT), max_tokens=12, ignore_eos=True,
            sampling=generation.SamplingOptions(temperature=0))
        pieces = list(self.server.generation.StreamGenerate(request))
        self.assertGreater(len(pieces), 3)
        self.assertEqual("".join(piece.text for piece in pieces),
                         self.greedy(max_tokens=12, ignore_eos=True).completions[0].text)
        self.assertEqual([piece.finish_reason for piece in pieces if piece.finish_reason], [generation.LENGTH])
        self.assertEqual(pieces[-1].usage.completion_tokens, 12)

    def test_cancelled_stream_frees_the_server(self):
        request = generation.GenerateRequest(model="models/smollm2", prompt=generation.Prompt(text="Once"),
                                             max_tokens=4000, ignore_eos=True)
        calls = [self.server.generation.StreamGenerate(request) for _ in range(4)]
        for call in calls:
            next(call)
            call.cancel()
        deadline = time.monotonic() + 10
        while (running := self.metric("attune_num_requests_running")) != 0:
            self.assertLess(time.monotonic(), deadline, f"{running} requests still run")
            time.sleep(0.1)

    def test_sampling_is_repeatable_by_seed(self):
        sample = lambda seed: [c.text for c in self.server.generate(
            "models/smollm2", "Once upon a time", n=2, max_tokens=12, ignore_eos=True,
            sampling=generation.SamplingOptions(temperature=1, top_p=0.95, seed=seed)).completions]
        first = sample(7)
        self.assertEqual(first, sample(7))
        self.assertNotEqual(first[0], first[1])
        self.assertEqual(sample(8)[0], first[1])

    def test_stop_string(self):
        text = self.greedy(max_tokens=8, ignore_eos=True).completions[0].text
        stop = text[3:6]
        answer = self.greedy(max_tokens=8, ignore_eos=True, stop=[stop]).completions[0]
        self.assertEqual(answer.text, text[:text.index(stop)])
        self.assertEqual(answer.finish_reason, generation.STOP)

    def test_logprobs(self):
        tokens = self.greedy(max_tokens=4, ignore_eos=True, top_logprobs=3).completions[0].logprobs
        self.assertEqual(len(tokens), 4)
        for token in tokens:
            self.assertEqual(len(token.alternatives), 3)
            self.assertEqual(token.alternatives[0].token_id, token.token_id)
            self.assertAlmostEqual(token.alternatives[0].logprob, token.logprob, places=5)
            self.assertLessEqual(sum(math.exp(a.logprob) for a in token.alternatives), 1 + 1e-6)

    def test_answers_of_a_form(self):
        schema = json.dumps({"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                                                              "legs": {"type": "integer", "minimum": 0, "maximum": 8}},
                             "required": ["name", "legs"], "additionalProperties": False})
        for model_name in ("models/smollm2", "models/mood-lora"):
            answer = self.server.generate(model_name, "A cat as JSON: ", max_tokens=64,
                                          structured_output=generation.StructuredOutput(json_schema=schema))
            self.assertEqual(answer.completions[0].finish_reason, generation.STOP)
            cat = json.loads(answer.completions[0].text)
            self.assertEqual(set(cat), {"name", "legs"})
            self.assertIn(cat["legs"], range(9))
        choices = generation.StructuredOutput(choice=generation.StructuredOutput.Choices(choices=["glad", "sad"]))
        answer = self.server.generate("models/smollm2", "What a lovely day. I am", structured_output=choices)
        self.assertIn(answer.completions[0].text, ("glad", "sad"))
        error = self.fails(Code.INVALID_ARGUMENT, "BAD_ANSWER_FORM", self.server.generate, "models/smollm2", "x",
                           structured_output=generation.StructuredOutput(regex="(a"))
        self.assertEqual(error.fields, ["structured_output"])

    def test_searches_and_guesses(self):
        prompt = "one two three four. one two three four. one two"
        plain = self.server.generate("models/smollm2", prompt, max_tokens=24)
        for speculative in (generation.SpeculativeOptions(draft_tokens=6),
                            generation.SpeculativeOptions(draft_model="models/mood-lora")):
            ahead = self.server.generate("models/smollm2", prompt, max_tokens=24, speculative=speculative)
            self.assertEqual(ahead.completions[0].text, plain.completions[0].text)
            self.assertGreater(ahead.usage.draft_tokens, 0)
            self.assertGreater(ahead.usage.accepted_draft_tokens, 0)
        search = generation.BeamSearchOptions(beams=4)
        found = self.server.generate("models/smollm2", "The capital of France is", max_tokens=12, n=2, beam_search=search)
        self.assertIn("Paris", found.completions[0].text)
        self.assertGreaterEqual(found.completions[0].score, found.completions[1].score)
        best = self.server.generate("models/smollm2", "Once upon a time", max_tokens=12, n=2, best_of=5,
                                    sampling=generation.SamplingOptions(temperature=1.0, seed=4))
        self.assertEqual(len(best.completions), 2)
        self.assertGreaterEqual(best.completions[0].score, best.completions[1].score)
        self.assertGreater(best.usage.completion_tokens, 2 * 12)

    def test_embeddings_tell_texts_apart(self):
        texts = ["The cat sleeps on the warm sofa.", "A kitten is napping on a cosy couch.", "Shares of the oil company fell by 3%."]
        answer = self.server.generation.Embed(generation.EmbedRequest(
            model="models/smollm2", inputs=[generation.Prompt(text=text) for text in texts], normalize=True))
        vectors = [embedding.values for embedding in answer.embeddings]
        self.assertEqual([len(vector) for vector in vectors], [576] * 3)
        dot = lambda a, b: sum(x * y for x, y in zip(a, b))
        self.assertAlmostEqual(dot(vectors[0], vectors[0]), 1, places=4)
        self.assertGreater(dot(vectors[0], vectors[1]), dot(vectors[0], vectors[2]))

    def test_chat_and_tokens_as_prompts(self):
        chat = generation.Prompt(chat=generation.ChatPrompt(messages=[
            generation.ChatMessage(role="user", content="Say hello.")]))
        answer = self.server.generate("models/smollm2", prompt=chat, max_tokens=32,
                                      sampling=generation.SamplingOptions(temperature=0))
        self.assertIn("ello", answer.completions[0].text)
        ids = self.server.generation.Tokenize(generation.TokenizeRequest(
            model="models/smollm2", prompt=generation.Prompt(text=self.PROMPT))).token_ids
        answer = self.server.generate("models/smollm2", max_tokens=8, ignore_eos=True,
                                      prompt=generation.Prompt(token_ids=generation.TokenIds(ids=ids)),
                                      sampling=generation.SamplingOptions(temperature=0))
        self.assertEqual(answer.completions[0].text, self.greedy(max_tokens=8, ignore_eos=True).completions[0].text)

    def test_tuned_model_applies_its_template(self):
        variables = generation.Prompt(template_input=generation.TemplateInput(variables={"text": "A fine day"}))
        ids = self.server.generation.Tokenize(generation.TokenizeRequest(model="models/mood-lora", prompt=variables))
        plain = self.server.generation.Tokenize(generation.TokenizeRequest(
            model="models/mood-lora", prompt=generation.Prompt(text="Text: A fine day\nMood:")))
        self.assertEqual(list(ids.token_ids), list(plain.token_ids))
        self.assertTrue(self.server.generate("models/mood-lora", prompt=variables, max_tokens=4).completions[0].token_ids)
        missing = generation.Prompt(template_input=generation.TemplateInput(variables={"other": "x"}))
        self.fails(Code.INVALID_ARGUMENT, "MISSING_COLUMN", self.server.generate, "models/mood-lora", prompt=missing)

    def test_wrong_requests_name_the_field(self):
        with self.assertRaises(grpc.RpcError) as context:
            self.server.generate("models/smollm2", "x", sampling=generation.SamplingOptions(temperature=-1))
        error = Error(context.exception)
        self.assertEqual((error.code, error.fields), (Code.INVALID_ARGUMENT, ["sampling.temperature"]), error)
        with self.assertRaises(grpc.RpcError) as context:
            self.server.generation.Generate(generation.GenerateRequest(model="models/smollm2"))
        self.assertEqual(context.exception.code(), Code.INVALID_ARGUMENT)

    def test_classify(self):
        for name in ("models/smollm2", "models/mood-lora"):
            answer = self.server.generation.Classify(generation.ClassifyRequest(
                model=name, prompt=generation.Prompt(text="Text: What a dreadful day\nMood:"),
                choices=["glad", "sad", "indifferent"]))
            self.assertEqual({choice.label for choice in answer.choices}, {"glad", "sad", "indifferent"})
            probabilities = [choice.probability for choice in answer.choices]
            self.assertAlmostEqual(sum(probabilities), 1, places=5)
            self.assertEqual(probabilities, sorted(probabilities, reverse=True))
            self.assertEqual(answer.label, answer.choices[0].label)

    def test_score(self):
        answer = self.server.generation.Score(generation.ScoreRequest(
            model="models/smollm2", prompt=generation.Prompt(text=self.PROMPT), continuations=[" Paris", " a potato"]))
        likely, unlikely = answer.scores
        self.assertGreater(likely.logprob, unlikely.logprob)
        self.assertFalse(unlikely.is_greedy)
        for score in answer.scores:
            self.assertAlmostEqual(score.logprob, sum(token.logprob for token in score.tokens), places=4)
        greedy = self.greedy(max_tokens=1, ignore_eos=True, logprobs=True).completions[0]
        same = self.server.generation.Score(generation.ScoreRequest(
            model="models/smollm2", prompt=generation.Prompt(text=self.PROMPT), continuations=[greedy.text])).scores[0]
        self.assertTrue(same.is_greedy)
        # bfloat16 or not, one token read or made: nearly the same number.
        self.assertAlmostEqual(same.logprob, greedy.logprobs[0].logprob, delta=0.05)

    def test_tokenize_and_back(self):
        text = "caf\u00e9 \U0001f600 \u6771\u4eac  x\n"
        tokens = self.server.generation.Tokenize(generation.TokenizeRequest(
            model="models/smollm2", prompt=generation.Prompt(text=text)))
        self.assertEqual(len(tokens.token_ids), len(tokens.pieces))
        back = self.server.generation.Detokenize(generation.DetokenizeRequest(model="models/smollm2",
                                                                              token_ids=tokens.token_ids))
        self.assertEqual(back.text, text)
        with self.assertRaises(grpc.RpcError) as context:
            self.server.generation.Detokenize(generation.DetokenizeRequest(model="models/smollm2", token_ids=[1 << 30]))
        self.assertEqual(context.exception.code(), Code.INVALID_ARGUMENT)

    # Evaluation.

    def test_evaluate(self):
        messages = list(self.server.evaluation.Evaluate(evaluation.EvaluateRequest(
            model="models/mood-lora", dataset="datasets/mood", max_examples=20)))
        self.assertTrue(all(not message.HasField("result") for message in messages[:-1]))
        result = messages[-1].result
        self.assertEqual((result.examples, result.label_accuracy.count), (20, 20))
        accuracy = result.label_accuracy
        self.assertTrue(0 <= accuracy.lower <= accuracy.value <= accuracy.upper <= 1)
        self.assertEqual(sum(label.correct for label in result.labels), round(accuracy.value * 20))
        self.assertEqual({label.label: label.count for label in result.labels}, {"glad": 10, "sad": 10})
        self.assertAlmostEqual(result.perplexity, math.exp(result.loss), delta=1e-3 * result.perplexity)
        self.fails(Code.NOT_FOUND, "DATASET_NOT_FOUND", self.server.evaluation.Evaluate,
                   evaluation.EvaluateRequest(model="models/smollm2", dataset="datasets/none"))

    # Around the services.

    def test_reflection_lists_every_service(self):
        stub = reflection_pb2_grpc.ServerReflectionStub(self.server.channel)
        answer = next(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
        services = {service.name for service in answer.list_services_response.service}
        self.assertLessEqual({f"attune.v1.{name}Service" for name in
                              ("Tuning", "Dataset", "Model", "Generation", "Evaluation")}, services)

    def test_health(self):
        stub = health_pb2_grpc.HealthStub(self.server.channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=""))
        self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        for path in ("/healthz", "/readyz"):
            self.assertEqual(self.server.get(path)[0], 200)

    def metric(self, name):
        """The sum of a metric's series; None if there is none."""
        values = [float(line.rsplit(" ", 1)[1]) for line in self.server.get("/metrics")[1].splitlines()
                  if line.startswith(name + "{") or line.startswith(name + " ")]
        return sum(values) if values else None

    def test_metrics_count(self):
        before = self.metric("attune_generation_tokens_total") or 0
        self.greedy(max_tokens=5, ignore_eos=True)
        self.assertGreaterEqual(self.metric("attune_generation_tokens_total"), before + 5)
        for name in ("attune_num_requests_running", "attune_num_requests_waiting", "attune_kv_cache_usage_perc",
                     "attune_prompt_tokens_total", "attune_time_to_first_token_seconds_count",
                     "attune_e2e_request_latency_seconds_count"):
            self.assertIsNotNone(self.metric(name), name)


class FlagsTest(unittest.TestCase):
    def test_options_of_serving(self):
        """A server that decodes from blocks, knows no prefixes, and trains beside generation up to a target."""
        with tempfile.TemporaryDirectory(prefix="attune_flags.") as folder:
            flags = ["--decode-weights", "int8", "--no-prefix-cache", "--inter-token-target", "0.5"]
            server = Server(os.path.join(folder, "data"), flags).start()
            try:
                server.import_model()
                server.upload("mood", mood_rows(60), **MOOD)
                job = server.create_job(lora_job(hyperparameters={"max_steps": 100000}), "long")
                while server.get_job(job.name).progress.step < 1:
                    time.sleep(0.05)
                for _ in range(2):
                    answer = server.generate("models/smollm2", "The capital of France is " + "really " * 30, max_tokens=8)
                    self.assertEqual(answer.usage.cached_prompt_tokens, 0)
                page = server.get("/metrics")[1]
                value = lambda name: sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))
                self.assertEqual(value("attune_prefix_cache_hits_total"), 0)
                self.assertGreater(value("attune_generation_lateness_seconds_count"), 0)
                self.assertLess(value("attune_generation_lateness_seconds_sum"), 60)
                for work in ("generation", "training"):
                    self.assertGreater(value(f'attune_device_seconds_total{{work="{work}"}}'), 0)
            finally:
                server.terminate()
            with open(server.log, encoding="utf-8") as log:
                loaded = [line for line in log if "model.decode_weights" in line]
            self.assertEqual(len(loaded), 1)
            self.assertIn("format=int8", loaded[0])
            # This file has blocks of its own, which stay: only rounding differs.
            self.assertRegex(loaded[0], r"change_percent=[+-]0\.\d\d")


    def test_an_answer_does_not_depend_on_the_batch(self):
        """With --batch-invariant a drawn answer and its log-probabilities are the same to the bit, alone or not."""
        with tempfile.TemporaryDirectory(prefix="attune_flags.") as folder:
            server = Server(os.path.join(folder, "data"), ["--batch-invariant", "--no-prefix-cache"]).start()
            try:
                server.import_model()

                def ask(number):
                    answer = server.generate(
                        "models/smollm2", f"Story {number}: once upon a time" + " there was a king" * (number % 5),
                        max_tokens=20, ignore_eos=True, logprobs=True,
                        sampling=generation.SamplingOptions(temperature=1, seed=number))
                    return [(token.token_id, token.logprob) for token in answer.completions[0].logprobs]

                alone = [ask(number) for number in range(2)]
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    together = list(pool.map(ask, range(8)))
                self.assertEqual(together[:2], alone)
            finally:
                server.terminate()


class ShutdownTest(unittest.TestCase):
    def test_sigterm_stops_cleanly_and_everything_is_there_after(self):
        with tempfile.TemporaryDirectory(prefix="attune_shutdown.") as folder:
            server = Server(os.path.join(folder, "data")).start()
            server.import_model()
            server.upload("mood", mood_rows(60), **MOOD)
            job = server.create_job(lora_job(hyperparameters={"max_steps": 100000}), "long")
            for event in server.tuning.WatchTuningJob(tuning_service.WatchTuningJobRequest(name=job.name), timeout=120):
                if event.type == tuning_job.JobEvent.PROGRESS and event.progress.step >= 2:
                    break
            self.assertEqual(server.terminate(), 0)
            server.start()
            try:
                # The job was checkpointed and goes on from there.
                for event in server.tuning.WatchTuningJob(
                        tuning_service.WatchTuningJobRequest(name=job.name, after_sequence=event.sequence), timeout=120):
                    if event.type == tuning_job.JobEvent.PROGRESS and event.state == State.RUNNING:
                        break
                self.assertGreater(event.progress.step, 2)
                self.assertEqual(server.datasets.GetDataset(
                    dataset_service.GetDatasetRequest(name="datasets/mood")).row_count, 60)
            finally:
                status = server.terminate()
            self.assertEqual(status, 0)


if __name__ == "__main__":
    unittest.main()
