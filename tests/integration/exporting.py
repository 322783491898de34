"""What tests share that open what Attune exports with other programs, and import it again."""
import os
import shutil
import tempfile
import unittest

from attune_server import MOOD, Server, generation, model_service, mood_rows

Export = model_service.ExportModelRequest


class ExportingTest(unittest.TestCase):
    """A server in fp32 for all tests of a class, whose exports go to the folder `exports`, from which models are imported, too."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp(prefix=f"attune_{cls.__name__}.")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.exports = os.path.join(cls.folder, "exports")
        os.makedirs(cls.exports)
        cls.server = Server(os.path.join(cls.folder, "data"), ["--precision", "float32", "--export-root", cls.exports,
                                                               "--import-root", cls.exports]).start()
        cls.addClassCleanup(cls.server.terminate)

    @classmethod
    def load(cls, path, name, **fields):
        cls.server.models.ImportModel(model_service.ImportModelRequest(source_path=path, model_id=name, **fields))

    @classmethod
    def export(cls, model, form, destination):
        return cls.server.models.ExportModel(Export(name=f"models/{model}", format=form, destination=destination)).path

    @classmethod
    def load_models_and_data(cls):
        """The real model as "smollm2" and, from a Hugging Face folder with a tied head, as "folder"; the dataset "mood". The folder."""
        cls.server.import_model()
        folder = cls.export("smollm2", Export.SAFETENSORS, "folder")
        cls.load(folder, "folder")
        cls.server.upload("mood", mood_rows(24), **MOOD)
        return folder

    @classmethod
    def load_gemma(cls, name):
        """The real Gemma; skips the test where there is none."""
        source = os.environ.get("ATTUNE_TEST_GEMMA", "")
        if not os.path.isfile(source):
            raise unittest.SkipTest("ATTUNE_TEST_GEMMA does not name a file")
        cls.load(shutil.copyfile(source, os.path.join(cls.exports, os.path.basename(source))), name)

    def tokens(self, model, text):
        request = generation.TokenizeRequest(model=f"models/{model}", prompt=generation.Prompt(text=text))
        return list(self.server.generation.Tokenize(request).token_ids)

    def answer(self, model, tokens, count):
        """The likeliest answer of so many tokens, with log-probabilities."""
        return self.server.generate(f"models/{model}", prompt=generation.Prompt(token_ids=generation.TokenIds(ids=tokens)),
                                    max_tokens=count, ignore_eos=True, logprobs=True).completions[0]
