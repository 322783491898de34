"""A comparison on a real server: its figures, its end, and what survives the server's death."""
import os
import shutil
import tempfile
import unittest

import grpc
from attune_server import MOOD, Error, Server, comparison, comparison_service, model_service, mood_rows, tuning_service

Comparison = comparison.Comparison


def small(**fields):
    """Few rows and steps."""
    hyperparameters = {"max_steps": 6, "batch_size": 8, "evaluation_steps": -1}
    message = Comparison(base_model="models/smollm2", dataset="datasets/mood",
                         contenders=[Comparison.ZERO_SHOT, Comparison.HAND_PROMPT, Comparison.IA3, Comparison.LORA],
                         hand_prompt="Is this text glad or sad?\n{{text}}\nIt is:", max_trials=2,
                         hyperparameters=hyperparameters, data={"max_sequence_tokens": 48})
    message.MergeFrom(Comparison(**fields))
    return message


class ComparisonTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="attune_comparison.")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.server = Server(os.path.join(self.folder, "data")).start()
        self.addCleanup(self.stop)
        self.server.import_model()
        self.server.upload("mood", mood_rows(160), **MOOD)

    def stop(self):
        if self.server.process.poll() is None:
            self.server.terminate()

    def create(self, message, comparison_id="moods", request_id=""):
        return self.server.comparisons.CreateComparison(comparison_service.CreateComparisonRequest(
            comparison=message, comparison_id=comparison_id, request_id=request_id))

    def watch(self, name="comparisons/moods"):
        yield from self.server.comparisons.WatchComparison(
            comparison_service.WatchComparisonRequest(name=name), timeout=600)

    def test_the_whole_way_with_a_crash_in_between(self):
        made = self.create(small(price_per_device_hour=3600, skip_side_effects=True), request_id="once")
        self.assertEqual(made.name, "comparisons/moods")
        self.assertEqual(self.create(small(price_per_device_hour=3600, skip_side_effects=True), request_id="once").name,
                         made.name)
        for state in self.watch():
            trials = [trial for result in state.results for trial in result.trials]
            if any(trial.state == Comparison.Trial.DONE for trial in trials):
                break
        self.server.kill()
        self.server.start()
        done = list(self.watch())[-1]
        self.assertEqual(done.state, Comparison.SUCCEEDED, (done, self.server.log_tail()))

        # Nothing was done twice: one job for each trial.
        jobs = self.server.tuning.ListTuningJobs(tuning_service.ListTuningJobsRequest()).tuning_jobs
        trials = {trial.tuning_job for result in done.results for trial in result.trials}
        self.assertEqual({job.name for job in jobs}, trials)
        self.assertEqual((done.train_examples, done.validation_examples, done.test_examples), (112, 16, 32))
        self.assertEqual(list(done.choices), ["glad", "sad"])

        results = {Comparison.ContenderKind.Name(result.kind): result for result in done.results}
        figures = {kind: {measure.name: measure for measure in result.measures} for kind, result in results.items()}
        for kind in ("ZERO_SHOT", "HAND_PROMPT", "IA3", "LORA"):
            self.assertGreater(results[kind].rank, 0, kind)
            quality = figures[kind]["quality"]
            self.assertEqual(quality.count, 32)
            self.assertTrue(0 <= quality.lower <= quality.value <= quality.upper <= 1, quality)
            self.assertGreater(figures[kind]["request_milliseconds"].value, 0)
        for kind in ("ZERO_SHOT", "HAND_PROMPT"):
            self.assertEqual(figures[kind]["search_seconds"].value, 0)
        self.assertGreater(figures["HAND_PROMPT"]["prompt_tokens"].value, figures["ZERO_SHOT"]["prompt_tokens"].value)
        for kind in ("IA3", "LORA"):
            self.assertGreater(figures[kind]["training_memory"].value, 0)
            self.assertAlmostEqual(figures[kind]["price"].value, figures[kind]["search_seconds"].value, 6)
        self.assertGreater(figures["LORA"]["quality"].value, figures["ZERO_SHOT"]["quality"].value)
        self.assertTrue(done.verdict.startswith("Take "), done.verdict)

        # The winner serves, the losers are gone.
        models = [m.name for m in self.server.models.ListModels(model_service.ListModelsRequest()).models]
        self.assertEqual(sorted(models), sorted({"models/smollm2", done.winner_model}))
        report = self.server.comparisons.GetComparisonReport(
            comparison_service.GetComparisonReportRequest(name=done.name)).html
        self.assertIn("<!doctype html>", report.lower())
        self.assertNotIn("<script", report)
        self.server.comparisons.DeleteComparison(comparison_service.DeleteComparisonRequest(name=done.name))
        self.assertEqual(len(self.server.comparisons.ListComparisons(
            comparison_service.ListComparisonsRequest()).comparisons), 0)

    def test_full_tuning_at_too_high_a_rate_forgets_and_prompts_do_not(self):
        message = small(hyperparameters={"learning_rate": 3e-3, "max_steps": 20})
        del message.contenders[:]
        message.contenders.extend([Comparison.HAND_PROMPT, Comparison.FULL])
        message.max_trials = 1
        message.retention_dataset = "datasets/kept"
        self.server.upload("kept", mood_rows(20), prompt_template="{{text}}", completion_template=" {{label}}")
        self.create(message)
        done = list(self.watch())[-1]
        self.assertEqual(done.state, Comparison.SUCCEEDED, (done, self.server.log_tail()))
        figures = {result.kind: {measure.name: measure for measure in result.measures} for result in done.results}
        self.assertGreater(figures[Comparison.FULL]["forgetting"].lower, 0.1)
        self.assertGreater(figures[Comparison.FULL]["divergence"].lower, 0.5)
        for name in ("forgetting", "divergence", "retention_loss"):
            self.assertEqual(figures[Comparison.HAND_PROMPT][name].value, 0)
        for kind in (Comparison.HAND_PROMPT, Comparison.FULL):
            self.assertIn("consistency", figures[kind])
            self.assertTrue(0 < figures[kind]["resampled"].value <= 1)
            self.assertGreater(figures[kind]["probe_accuracy"].count, 300)
            self.assertEqual(figures[kind]["retention"].count, 20)
        if done.winner == Comparison.FULL:
            self.assertIn("it forgets", done.verdict)

    def test_cancel_stops_the_job_too(self):
        self.create(small(hyperparameters={"max_steps": 100000}, contenders=[Comparison.PREFIX]))
        for state in self.watch():
            if any(trial.state == Comparison.Trial.RUNNING for result in state.results for trial in result.trials):
                break
        self.server.comparisons.CancelComparison(comparison_service.CancelComparisonRequest(name="comparisons/moods"))
        self.assertEqual(list(self.watch())[-1].state, Comparison.CANCELLED)
        jobs = self.server.tuning.ListTuningJobs(tuning_service.ListTuningJobsRequest()).tuning_jobs
        for job in jobs:
            self.assertIn(self.server.watch(job.name)[-1].state, (6, 7), job)  # failed or cancelled
        with self.assertRaises(grpc.RpcError) as context:
            self.server.comparisons.CancelComparison(comparison_service.CancelComparisonRequest(name="comparisons/moods"))
        self.assertEqual(Error(context.exception).reason, "COMPARISON_ENDED")

    def test_wrong_requests_name_the_field(self):
        wrong = {"comparison.contenders": small(contenders=[Comparison.LORA]),
                 "comparison.base_model": small(base_model="nonsense"),
                 "comparison.test_fraction": small(test_fraction=0.9),
                 "comparison.hyperparameters.epochs": small(hyperparameters={"epochs": -1})}
        for field, message in wrong.items():
            with self.assertRaises(grpc.RpcError) as context:
                self.create(message)
            error = Error(context.exception)
            self.assertEqual(error.code, grpc.StatusCode.INVALID_ARGUMENT, error)
            self.assertIn(field, error.fields)
        no_prompt = small()
        no_prompt.hand_prompt = ""
        with self.assertRaises(grpc.RpcError) as context:
            self.create(no_prompt)
        self.assertIn("comparison.hand_prompt", Error(context.exception).fields)
        with self.assertRaises(grpc.RpcError) as context:
            self.create(small(dataset="datasets/none"))
        self.assertEqual(context.exception.code(), grpc.StatusCode.NOT_FOUND)


if __name__ == "__main__":
    unittest.main()
