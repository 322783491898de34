"""An alias over two tuned models on a real server: canary, roll-back, restart."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

import grpc
from attune_server import (MOOD, SOURCE, Error, Server, alias, alias_service, comparison, comparison_service, evaluation,
                           generation, lora_job, model_service, mood_rows, tuning_job)

Code = grpc.StatusCode
Comparison = comparison.Comparison
COMMAND = os.environ.get("ATTUNE_COMMAND_BINARY", os.path.join(SOURCE, "build", "client", "attune"))


class AliasTest(unittest.TestCase):
    """All tests share one server with two finished LoRA jobs; each has an alias of its own."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="attune_alias.")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.server = Server(os.path.join(cls.folder, "data")).start()
        cls.addClassCleanup(cls.stop)
        cls.server.import_model()
        cls.server.upload("mood", mood_rows(24), **MOOD)
        for name in ("old", "new"):
            job = cls.server.create_job(lora_job(tuned_model_id=name), name)
            cls.server.watch(job.name)
            done = cls.server.get_job(job.name)
            assert done.state == tuning_job.TuningJob.SUCCEEDED, (done, cls.server.log_tail())

    @classmethod
    def stop(cls):
        if cls.server.process.poll() is None:
            cls.server.terminate()

    def set_alias(self, name, **weights):
        targets = [alias.Alias.Target(model=f"models/{model}", weight=weight) for model, weight in weights.items()]
        return self.server.aliases.SetAlias(alias_service.SetAliasRequest(
            alias=alias.Alias(name=f"aliases/{name}", targets=targets)))

    def roll_back(self, name):
        return self.server.aliases.RollBackAlias(alias_service.RollBackAliasRequest(name=f"aliases/{name}"))

    def answering(self, name, text="Text: fine\nMood:", **fields):
        """The model that answers."""
        return self.server.generate(f"models/{name}", text, max_tokens=1, **fields).model

    def fails(self, code, reason, call, request):
        with self.assertRaises(grpc.RpcError) as context:
            call(request)
        error = Error(context.exception)
        self.assertEqual((error.code, error.reason), (code, reason), error)
        return error

    def test_every_service_answers_for_it(self):
        self.set_alias("served", new=1)
        name, prompt = "models/served", generation.Prompt(text="Text: fine\nMood:")
        direct = self.server.generate("models/new", prompt=prompt, max_tokens=4)
        through = self.server.generate(name, prompt=prompt, max_tokens=4)
        self.assertEqual(through.model, "models/new")
        self.assertEqual(through.completions[0].token_ids, direct.completions[0].token_ids)
        stub = self.server.generation
        pieces = list(stub.StreamGenerate(generation.GenerateRequest(model=name, prompt=prompt, max_tokens=2)))
        self.assertEqual(pieces[0].model, "models/new")
        for call, request in (
                (stub.Classify, generation.ClassifyRequest(model=name, prompt=prompt, choices=["glad", "sad"])),
                (stub.Score, generation.ScoreRequest(model=name, prompt=prompt, continuations=[" glad"])),
                (stub.Embed, generation.EmbedRequest(model=name, inputs=[prompt])),
                (stub.Tokenize, generation.TokenizeRequest(model=name, prompt=prompt)),
                (stub.Detokenize, generation.DetokenizeRequest(model=name, token_ids=[5]))):
            self.assertEqual(call(request).model, "models/new")
        *_, last = self.server.evaluation.Evaluate(evaluation.EvaluateRequest(
            model=name, dataset="datasets/mood", max_examples=4))
        self.assertEqual((last.result.model, last.result.examples), ("models/new", 4))

    def test_canary_and_roll_back(self):
        self.set_alias("canary", old=1)
        tenants = [f"tenant-{i}" for i in range(40)]
        ask = lambda: {tenant: self.answering("canary", tenant=tenant) for tenant in tenants}
        self.assertEqual(set(ask().values()), {"models/old"})
        self.set_alias("canary", old=3, new=1)
        first = ask()
        moved = {tenant for tenant, model in first.items() if model == "models/new"}
        # Tenants are not drawn by chance: these 40 always fall so. 10 are expected, three standard deviations are 8.
        self.assertTrue(2 <= len(moved) <= 18, moved)
        self.assertEqual(ask(), first)
        self.set_alias("canary", old=1, new=1)
        self.assertLess(moved, {tenant for tenant, model in ask().items() if model == "models/new"})
        self.assertEqual(self.roll_back("canary").targets[0].weight, 3)
        self.assertEqual(ask(), first)
        self.assertEqual(len(self.roll_back("canary").history), 4 + 1)
        self.assertEqual(set(ask().values()), {"models/old"})
        with self.assertRaises(grpc.RpcError) as context:
            self.roll_back("canary")
        self.assertEqual(Error(context.exception).reason, "NO_EARLIER_SETTING")
        metrics = self.server.get("/metrics")[1]
        self.assertIn('attune_alias_requests_total{alias="canary",model_name="new"}', metrics)
        self.assertIn('attune_generation_tokens_total{model_name="old"}', metrics)
        self.assertNotIn('model_name="canary"', metrics)

    def test_running_requests_stay_with_their_model(self):
        self.set_alias("moving", old=1)
        pieces = self.server.generation.StreamGenerate(generation.GenerateRequest(
            model="models/moving", prompt=generation.Prompt(text="Once"), max_tokens=60, ignore_eos=True))
        self.assertEqual(next(pieces).model, "models/old")
        self.set_alias("moving", new=1)
        self.assertEqual(self.answering("moving"), "models/new")
        self.assertEqual(list(pieces)[-1].usage.completion_tokens, 60)

    def test_names_are_one_namespace(self):
        self.set_alias("named", old=1)
        with self.assertRaises(grpc.RpcError) as context:
            self.set_alias("new", old=1)
        self.assertEqual(Error(context.exception).reason, "MODEL_EXISTS")
        with self.assertRaises(grpc.RpcError) as context:
            self.server.import_model("named")
        self.assertEqual(Error(context.exception).reason, "ALIAS_EXISTS")
        with self.assertRaises(grpc.RpcError) as context:
            self.server.create_job(lora_job(tuned_model_id="named"))
        self.assertEqual(context.exception.code(), Code.ALREADY_EXISTS)
        job = lora_job()
        job.base_model = "models/named"
        with self.assertRaises(grpc.RpcError) as context:
            self.server.create_job(job)
        self.assertEqual(Error(context.exception).reason, "MODEL_IS_ALIAS")
        for call, request in ((self.server.models.DeleteModel, model_service.DeleteModelRequest),
                              (self.server.models.ExportModel, model_service.ExportModelRequest)):
            error = self.fails(Code.FAILED_PRECONDITION, "MODEL_IS_ALIAS", call, request(name="models/named"))
            self.assertIn("models/old", error.message)

    def test_target_cannot_be_deleted(self):
        self.set_alias("keeper", old=1)
        error = self.fails(Code.FAILED_PRECONDITION, "MODEL_IN_USE", self.server.models.DeleteModel,
                           model_service.DeleteModelRequest(name="models/old"))
        self.assertIn("aliases/", error.metadata["alias"])
        self.assertEqual(self.answering("keeper"), "models/old")

    def command(self, *arguments):
        """What `attune ... --json` prints."""
        done = subprocess.run([COMMAND, *arguments, "--server", self.server.address, "--json"], check=True,
                              capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout)

    def test_comparison_keeps_what_is_aliased_and_its_winner_is_promoted(self):
        self.server.comparisons.CreateComparison(comparison_service.CreateComparisonRequest(
            comparison_id="moods", comparison=Comparison(
                base_model="models/smollm2", dataset="datasets/mood", contenders=[Comparison.IA3, Comparison.LORA],
                max_trials=1, skip_side_effects=True, test_fraction=0.3,
                hyperparameters={"max_steps": 2, "batch_size": 4, "evaluation_steps": -1},
                data={"max_sequence_tokens": 48})))
        aliased = {}
        for state in self.server.comparisons.WatchComparison(
                comparison_service.WatchComparisonRequest(name="comparisons/moods"), timeout=240):
            models = {trial.model for result in state.results for trial in result.trials
                      if trial.state == Comparison.Trial.DONE and trial.model}
            for model in models - set(aliased):
                aliased[model] = f"trial-{len(aliased)}"
                self.set_alias(aliased[model], **{model.removeprefix("models/"): 1})
        self.assertEqual(state.state, Comparison.SUCCEEDED, state)
        # The loser's, too: deleting it was refused, and the comparison ended well all the same.
        self.assertEqual(len(aliased), 2)
        self.assertIn(state.winner_model, aliased)
        for model, name in aliased.items():
            self.assertEqual(self.answering(name), model)
        self.assertEqual({result.model for result in state.results}, set(aliased))

        self.set_alias("promoted", old=1)
        canary = self.command("promote", "moods", "--as", "promoted", "--share", "25")
        self.assertEqual([(target["model"], target["weight"]) for target in canary["targets"]],
                         [("models/old", 3), (state.winner_model, 1)])
        self.command("promote", "moods", "--as", "promoted")
        self.assertEqual(self.answering("promoted"), state.winner_model)
        self.assertEqual(len(self.command("aliases", "rollback", "promoted")["targets"]), 2)
        self.command("aliases", "rollback", "promoted")
        self.assertEqual(self.answering("promoted"), "models/old")

    def test_survives_a_crash(self):
        self.set_alias("durable", old=1)
        before = self.set_alias("durable", old=1, new=1)
        texts = [f"Text: day {i}\nMood:" for i in range(12)]
        answers = [self.answering("durable", text) for text in texts]
        self.assertEqual(set(answers), {"models/old", "models/new"})
        self.server.kill()
        self.server.start()
        after = self.server.aliases.GetAlias(alias_service.GetAliasRequest(name="aliases/durable"))
        self.assertEqual(after, before)
        self.assertEqual([self.answering("durable", text) for text in texts], answers)
        self.roll_back("durable")
        self.assertEqual({self.answering("durable", text) for text in texts}, {"models/old"})


if __name__ == "__main__":
    unittest.main()
