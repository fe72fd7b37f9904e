"""Start the real SGLang: `sglang_program.py folder arguments-of-ServerArgs-as-JSON [ray]`. See test_sglang.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1, "vocab_size": 128,
    "max_position_embeddings": 128, "torch_dtype": "float32",
}  # fmt: skip


def main() -> None:
    folder, arguments = Path(sys.argv[1]), json.loads(sys.argv[2])
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text(json.dumps(MODEL))
    if sys.argv[3:] == ["ray"]:
        import ray
        from sglang.srt.ray.engine import RayEngine as Engine

        ray.init(num_gpus=2, include_dashboard=False)
    else:
        from sglang.srt.entrypoints.engine import Engine
    engine = Engine(
        model_path=str(folder / "model"), load_format="dummy", skip_tokenizer_init=True, log_level="info",
        **{"device": "cuda", "tp_size": 2, **arguments},
    )  # fmt: skip
    print("started", flush=True)
    engine.shutdown()


if __name__ == "__main__":
    main()
