"""Look the world's words up in CLIP's vocabulary: python -m benchmarks.world.build_tokens FOLDER

FOLDER holds CLIP's vocab.json and merges.txt (a ComfyUI has them under comfy/sd1_tokenizer). Needed only when the world's words change.
"""

import json
import sys

from transformers import CLIPTokenizer

from .captions import world_words
from .contents import FOLDER, load_contents


def main(tokenizer_folder: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    words = world_words(load_contents())
    table = {word: tokenizer(word, add_special_tokens=False).input_ids for word in words}
    (FOLDER / "tokens.json").write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
