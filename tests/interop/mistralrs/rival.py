"""mistral.rs as a rival of the engine's benchmarks: rival.py MODEL.gguf; a line {"words", "output"} in, a line of tokens a second out.

Runs in the Python that `tests/tools/install mistralrs` makes. The speeds are those that mistral.rs reports itself.
"""

import importlib.metadata
import json
import pathlib
import sys

import mistralrs

WORDS = "river stone cloud paper green seven window market silver engine bridge winter garden letter".split()


def main():
    model = pathlib.Path(sys.argv[1])
    # The name of a family is in the file, so nothing is fetched.
    which = mistralrs.Which.GGUF(quantized_model_id=str(model.parent), quantized_filename=model.name)
    runner = mistralrs.Runner(which=which, token_source="none", prefix_cache_n=0)
    print(json.dumps({"version": importlib.metadata.version("mistralrs")}), flush=True)
    for number, line in enumerate(sys.stdin):
        asked = json.loads(line)
        # Another beginning each time, so that nothing is there already.
        words = [WORDS[(number + place * (number + 3)) % len(WORDS)] for place in range(asked["words"])]
        request = mistralrs.CompletionRequest(
            prompt=f"{number} " + " ".join(words), model="default", max_tokens=asked["output"], temperature=1.0, ignore_eos=True
        )
        usage = runner.send_completion_request(request).usage
        print(json.dumps({
            "prefill": usage.avg_prompt_tok_per_sec, "decode": usage.avg_compl_tok_per_sec,
            "prompt": usage.prompt_tokens, "output": usage.completion_tokens,
        }), flush=True)


main()
