"""What the shipped model says, for docs/samples.md:

    python -m training.samples

The same bytes on every machine: the program, the prompts and the seeds leave nothing open.
"""

from pathlib import Path

from genesis.models import DEFAULT_MODEL, folder
from inference.engine import open_engine
from inference.tokenizer import open_tokenizer

PROMPTS = ("The sea", "My dear", "There is no")
MAX_TOKENS, TEMPERATURE, TOP_K = 96, 0.7, 40
HEAD = f"""# What the shipped model says

`python -m training.samples` prints this page: `{DEFAULT_MODEL}`, temperature {TEMPERATURE}, top-k {TOP_K}, seed 0, at
most {MAX_TOKENS} tokens. The answers are integers of an exact program, so every machine prints the same.
"""


def samples(model: Path) -> str:
    """The page. An answer that reached its own end is followed by nothing, one that was cut by an ellipsis."""
    engine = open_engine("numpy", model)
    manifest = engine.model.manifest
    tokenizer = open_tokenizer(model, manifest.tokenizer)
    lines = [HEAD]
    for prompt in PROMPTS:
        answer = engine.generate(
            tokenizer.encode(prompt), MAX_TOKENS, round(TEMPERATURE * 65536), TOP_K, bytes(32), bytes(32)
        )
        cut = "" if answer.tokens[-1] in manifest.stop else " ..."
        text = f"**{prompt}**{tokenizer.decode(answer.tokens)}{cut}"
        lines.append("\n".join(f"> {line}" for line in text.split("\n")) + "\n")
    return "\n".join(lines)


if __name__ == "__main__":
    print(samples(folder()), end="")
