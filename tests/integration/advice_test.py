"""Advice on a real server: it asks a real model, lets real jobs run, and leaves nothing behind."""
import os
import shutil
import tempfile
import unittest

import grpc
from attune_server import (MOOD, Error, Server, advice, advice_service, comparison, comparison_service, dataset_service,
                           model_service, mood_rows, tuning_service)

Comparison = comparison.Comparison


class AdviceTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="attune_advice.")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.server = Server(os.path.join(self.folder, "data")).start()
        self.addCleanup(self.stop)
        self.server.import_model()
        self.server.upload("mood", mood_rows(60), **MOOD)

    def stop(self):
        if self.server.process.poll() is None:
            self.server.terminate()

    def advise(self, **fields):
        request = advice_service.AdviseRequest(base_model="models/smollm2", dataset="datasets/mood",
                                               data={"max_sequence_tokens": 48}, **fields)
        return list(self.server.advice.Advise(request, timeout=600))

    def test_evidence_ranking_and_looking_back(self):
        messages = self.advise(curve_seconds=300, needs={"accuracy": 0.9, "keep_skills": True})
        self.assertGreater(len(messages), 5)
        told = messages[-1].advice
        findings = {finding.name: finding for finding in told.findings}
        self.assertEqual(findings["labels"].value, 2)
        for name in ("zero_shot", "few_shot"):
            self.assertEqual(findings[name].count, 18)
            self.assertTrue(0 <= findings[name].lower <= findings[name].value <= findings[name].upper <= 1)
        self.assertIn("Short LoRA jobs reached", findings["learning_curve"].text, told)
        self.assertGreater(findings["task_distance"].value, 0)
        self.assertGreater(findings["device_seconds"].value, 0)
        order = [Comparison.ContenderKind.Name(one.kind) for one in told.recommendations]
        self.assertEqual(set(order[-2:]), {"PARTIAL", "FULL"}, order)
        self.assertNotIn("NOT_ENOUGH", advice.Advice.Verdict.Name(told.verdict))
        for one in told.recommendations:
            self.assertTrue(0 <= one.lower <= one.quality <= one.upper <= 1, one)
            self.assertTrue(all(reason.evidence for reason in one.reasons), one)

        # Nothing is left of the short jobs.
        self.assertEqual(len(self.server.tuning.ListTuningJobs(tuning_service.ListTuningJobsRequest()).tuning_jobs), 0)
        self.assertEqual(len(self.server.datasets.ListDatasets(dataset_service.ListDatasetsRequest()).datasets), 1)
        self.assertEqual(len(self.server.models.ListModels(model_service.ListModelsRequest()).models), 1)

        made = Comparison(base_model="models/smollm2", dataset="datasets/mood", max_trials=1, skip_side_effects=True,
                          contenders=[Comparison.ZERO_SHOT, Comparison.LORA], data={"max_sequence_tokens": 48},
                          hyperparameters={"max_steps": 6, "batch_size": 8, "evaluation_steps": -1})
        self.server.comparisons.CreateComparison(
            comparison_service.CreateComparisonRequest(comparison=made, comparison_id="moods"))
        for state in self.server.comparisons.WatchComparison(
                comparison_service.WatchComparisonRequest(name="comparisons/moods"), timeout=600):
            pass
        self.assertEqual(state.state, Comparison.SUCCEEDED, state)
        back = self.server.advice.Retrospect(advice_service.RetrospectRequest(comparison="comparisons/moods"))
        self.assertEqual(back.named, Comparison.LORA)
        self.assertEqual(back.right, back.named_quality >= back.best_lower)
        told = self.advise(skip_curve=True)[-1].advice
        self.assertEqual(told.past_comparisons, 1)
        self.assertEqual(told.retrospective.comparison, "comparisons/moods")

    def test_a_caller_that_leaves_takes_its_jobs_along(self):
        request = advice_service.AdviseRequest(base_model="models/smollm2", dataset="datasets/mood",
                                               data={"max_sequence_tokens": 48}, curve_seconds=600)
        call = self.server.advice.Advise(request, timeout=600)
        for message in call:
            if message.progress.startswith("short LoRA jobs"):
                call.cancel()
                break
        status = self.server.terminate()
        self.assertEqual(status, 0, self.server.log_tail())
        self.server.start()
        self.assertEqual(len(self.server.tuning.ListTuningJobs(tuning_service.ListTuningJobsRequest()).tuning_jobs), 0)

    def test_wrong_requests(self):
        for reason, fields in (("DATASET_NOT_FOUND", {"dataset": "datasets/none"}), ("MODEL_NOT_FOUND", {"base_model": "models/none"})):
            request = advice_service.AdviseRequest(base_model="models/smollm2", dataset="datasets/mood")
            request.MergeFrom(advice_service.AdviseRequest(**fields))
            with self.assertRaises(grpc.RpcError) as context:
                list(self.server.advice.Advise(request))
            self.assertEqual(Error(context.exception).reason, reason)


if __name__ == "__main__":
    unittest.main()
