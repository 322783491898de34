"""Makes tests/measures/golden.json, which measures_golden_test compares with.

usage: measures_reference.py OUTPUT_FOLDER

Writes OUTPUT_FOLDER/golden.json. It needs no model and is small, so it is kept in tests/measures; the packages are not
among those the tests install (without them: exit 77). Made with sacrebleu 2.6.0, rouge_score 0.1.2,
scikit-learn 1.9.1, scipy 1.17.1, statsmodels 0.15.0 and numpy 2.4.6.
"""

import collections
import json
import os
import random
import re
import string
import sys

try:
    import numpy as np
    import sacrebleu
    import scipy.stats
    import sklearn.metrics
    import sklearn.neighbors
    from rouge_score import rouge_scorer
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

PAIRS = [
    ("The cat sat on the mat.", ["The cat sat on the mat."]),
    ("the cat sat on a mat", ["The cat sat on the mat.", "A cat was sitting on the mat."]),
    ("A parcel of 1,234.5 kg left on 3-5 May 2024.", ["A parcel of 1,234.5kg left between 3 and 5 May, 2024."]),
    ("Über die Brücke fährt der Zug; ÄÖÜ!", ["Der Zug fährt über die Brücke: äöü."]),
    ("今日は いい天気です。", ["今日はとてもいい天気ですね。", "良い天気だ"]),
    ("Tom &amp; Jerry said &quot;hi&quot; &lt;loudly&gt;", ["Tom & Jerry said \"hi\" <loudly>"]),
    ("word-\nwrap and\nlines", ["wordwrap and lines"]),
    ("", ["something"]),
    ("something", [""]),
    ("", [""]),
    ("a an the", ["the"]),
    ("!?.,", ["..."]),
    ("x", ["x", "y z"]),
    ("no overlap here at all", ["completely different words follow now"]),
    ("It's O'Brien's dog, isn't it?", ["It is O'Brien's dog, is it not?"]),
    ("  spaces\u00a0and\u3000wide \u2003 ones\t", ["spaces and wide ones"]),
    ("Émile's café—naïve, déjà vu…", ["emile's cafe naive deja vu"]),
    ("a.b,c.d 1.2,3.4 .5 5. 5.x x.5 -1 1- 1-2 a-b", ["a . b , c . d 1.2 , 3.4 .5 5 . 5.x x.5 -1 1 - 1 - 2 a-b"]),
    ("😀 smile 😀😀", ["😀😀 smile"]),
    ("repeat repeat repeat repeat", ["repeat once", "repeat repeat"]),
    ("<skipped>kept</skipped> {x} [y] (z) ~!@#$%^&*", ["kept {x} [y] (z)"]),
    ("under_score CamelCase kebab-case 3rd 2nd", ["under score camelcase kebab case 3rd 2nd"]),
]
WORDS = "the a of in report model answer 12 3.5 data, train. loss; (new) old-style can't über naïve city river".split()


def random_pairs(rng):
    pairs = []
    for _ in range(40):
        reference = [rng.choice(WORDS) for _ in range(rng.randrange(1, 25))]
        answer = [w if rng.random() < 0.7 else rng.choice(WORDS) for w in reference if rng.random() < 0.9]
        other = [w for w in reference if rng.random() < 0.8]
        pairs.append((" ".join(answer), [" ".join(reference)] + ([" ".join(other)] if rng.random() < 0.4 else [])))
    return pairs


def squad_normalize(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(answer, reference):
    a, b = squad_normalize(answer).split(), squad_normalize(reference).split()
    if not a or not b:
        return float(a == b)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def text_case(answer, references):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    rouge = scorer.score_multi(references, answer)["rougeL"]
    return {
        "answer": answer, "references": references,
        "normalized": squad_normalize(answer),
        "exact": any(squad_normalize(answer) == squad_normalize(r) for r in references),
        "f1": max(squad_f1(answer, r) for r in references),
        "rouge_l": [rouge.precision, rouge.recall, rouge.fmeasure],
        "chrf": sacrebleu.metrics.CHRF().sentence_score(answer, references).score / 100,
        "tokens_13a": Tokenizer13a()(answer.rstrip()).split(),
    }


def corpus(pairs):
    width = max(len(references) for _, references in pairs)
    answers = [answer for answer, _ in pairs]
    streams = [[refs[i] if i < len(refs) else refs[0] for _, refs in pairs] for i in range(width)]
    return {"pairs": [list(pair) for pair in pairs],
            "bleu": sacrebleu.metrics.BLEU().corpus_score(answers, streams).score / 100,
            "chrf": sacrebleu.metrics.CHRF().corpus_score(answers, streams).score / 100}


def classification(rng, labels, count, noise):
    expected = [rng.choice(labels) for _ in range(count)]
    predicted = [rng.choice(labels + ["other"]) if rng.random() < noise else e for e in expected]
    names = sorted(set(expected) | set(predicted))
    p, r, f, _ = sklearn.metrics.precision_recall_fscore_support(expected, predicted, labels=names, zero_division=0)
    return {"expected": expected, "predicted": predicted, "labels": names,
            "accuracy": sklearn.metrics.accuracy_score(expected, predicted),
            "precision": list(p), "recall": list(r), "f1": list(f), "macro_f1": float(np.mean(f)),
            "confusion": sklearn.metrics.confusion_matrix(expected, predicted, labels=names).tolist()}


def calibration(rng, count, bins):
    confidence = [round(rng.random(), 3) for _ in range(count)] + [0.0, 1.0, 0.5, 0.2]
    correct = [rng.random() < c * 0.8 for c in confidence]
    c, y = np.array(confidence), np.array(correct, float)
    edges, error = np.linspace(0, 1, bins + 1), 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        mask = (c > low) & (c <= high) | ((low == 0) & (c == 0))
        if mask.any():
            error += mask.mean() * abs(c[mask].mean() - y[mask].mean())
    return {"confidence": confidence, "correct": correct, "bins": bins, "ece": error,
            "brier": sklearn.metrics.brier_score_loss(y.astype(int), c)}


def permutation(rng, count):
    a = [round(rng.gauss(0.5, 1), 3) for _ in range(count)]
    b = [round(x - rng.gauss(0.4, 0.8), 3) for x in a]
    result = scipy.stats.permutation_test((np.array(a), np.array(b)), lambda x, y, axis: np.mean(x - y, axis=axis),
                                          permutation_type="samples", vectorized=True, n_resamples=np.inf)
    return {"first": a, "second": b, "p": float(result.pvalue)}


def kappa(rng, groups, size):
    table = []
    for _ in range(groups):
        base = rng.choice("abc")
        table.append([base if rng.random() < 0.7 else rng.choice("abc") for _ in range(size)])
    counts, _ = aggregate_raters(np.array(table))
    return {"groups": table, "kappa": float(fleiss_kappa(counts))}


def kendall(rng, count, levels):
    a = [rng.randrange(levels) for _ in range(count)]
    b = [x + rng.randrange(-levels // 2, levels // 2 + 1) for x in a]
    return {"a": a, "b": b, "tau": float(scipy.stats.kendalltau(a, b).statistic)}


def label_noise(rng, count, width, neighbors):
    features = [[round(rng.gauss(0, 1) + 2 * (row % 3 == d), 3) for d in range(width)] for row in range(count)]
    labels = [row % 3 if rng.random() < 0.85 else rng.randrange(3) for row in range(count)]
    found = sklearn.neighbors.NearestNeighbors(n_neighbors=neighbors + 1, metric="cosine").fit(features)
    order = found.kneighbors(features, return_distance=False)
    disagreement = [float(np.mean([labels[o] != labels[i] for o in row if o != i][:neighbors])) for i, row in enumerate(order)]
    return {"features": sum(features, []), "labels": labels, "neighbors": neighbors, "disagreement": disagreement}


def curve(limit, scale, rate, sizes):
    """Free of noise, so that the curve itself is the only best fit."""
    return {"limit": limit, "scale": scale, "rate": rate,
            "points": [[n, limit - scale * n ** -rate, 0.01] for n in sizes], "at": 5000,
            "quality": limit - scale * 5000.0 ** -rate}


MASK = 2 ** 64 - 1


def mix(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def counter_random(seed, stream, count):
    gamma = 0x9E3779B97F4A7C15
    key = mix(mix(seed + gamma & MASK) + stream & MASK)
    return [str(mix(key + i * gamma & MASK)) for i in range(1, count + 1)]


def main():
    rng = random.Random(20240607)
    pairs = random_pairs(rng)
    p_values = [round(rng.random() ** 4, 5) for _ in range(12)]
    values = [round(rng.gauss(100, 30), 2) for _ in range(57)]
    probabilities = [0.7, 0.2, 0.1]
    golden = {
        "text": [text_case(*pair) for pair in PAIRS + pairs[:15]],
        "corpora": [corpus(pairs), corpus(PAIRS), corpus([("one two", ["one two three"])]),
                    corpus([("a b c d e", ["x y z w v"])]), corpus([("a b c d e f g", ["a x c d y f g h i"])])],
        "classification": [classification(rng, ["earn", "acq", "crude"], 60, 0.3),
                           classification(rng, ["yes", "no", "rare", "never"], 25, 0.6)],
        "calibration": [calibration(rng, 200, 15), calibration(rng, 30, 10), calibration(rng, 5, 1)],
        "wilson": [[k, n, *proportion_confint(k, n, method="wilson")] for k, n in [(1, 7), (8, 10), (425, 500), (999, 1000)]],
        "mcnemar": [[b, c, float(mcnemar([[0, b], [c, 0]], exact=True).pvalue)]
                    for b, c in [(0, 1), (1, 9), (5, 5), (12, 30), (200, 260), (3000, 3100), (0, 40)]],
        "permutation": [permutation(rng, n) for n in (3, 7, 12)],
        "holm": {"p": p_values, "adjusted": list(multipletests(p_values, method="holm")[1])},
        "kendall": [kendall(rng, 20, 5), kendall(rng, 50, 30), kendall(rng, 4, 3)],
        "fleiss": [kappa(rng, 20, 4), kappa(rng, 50, 2), kappa(rng, 10, 7)],
        "percentiles": {"values": values, "percents": [0, 2.5, 50, 90, 99, 100],
                        "results": list(np.percentile(values, [0, 2.5, 50, 90, 99, 100]))},
        "entropy": {"labels": ["a"] * 7 + ["b"] * 2 + ["c"], "bits": float(scipy.stats.entropy(probabilities, base=2))},
        "label_noise": [label_noise(rng, 40, 5, 5), label_noise(rng, 30, 3, 3)],
        "curves": [curve(0.9, 2.0, 0.5, [50, 100, 200, 400, 800]), curve(0.8, 1.5, 0.8, [30, 100, 1000]),
                   curve(0.95, 0.7, 0.2, [100, 300, 1000, 3000])],
        "random": [{"seed": "1", "stream": "0", "bits": counter_random(1, 0, 5)},
                   {"seed": str(MASK), "stream": "9", "bits": counter_random(MASK, 9, 5)}],
    }
    with open(os.path.join(sys.argv[1], "golden.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
