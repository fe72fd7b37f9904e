"""Generate text with the real vLLM: `vllm_program.py folder arguments-of-LLM-as-JSON`. See test_vllm.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1, "vocab_size": 128,
    "max_position_embeddings": 128, "torch_dtype": "float32",
}  # fmt: skip


def main() -> None:
    folder, arguments = Path(sys.argv[1]), json.loads(sys.argv[2])
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text(json.dumps(MODEL))
    if arguments.get("distributed_executor_backend") == "ray":
        import ray

        cluster = ray.init(num_gpus=2, include_dashboard=False)
        os.environ["RAY_ADDRESS"] = cluster.address_info["gcs_address"]  # for EngineCore
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(folder / "model"), load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64,
        kv_cache_memory_bytes=64 << 20, **{"tensor_parallel_size": 2, **arguments},
    )  # fmt: skip
    sampling = SamplingParams(max_tokens=4, detokenize=False)
    (output,) = engine.generate({"prompt_token_ids": [1, 2, 3]}, sampling, use_tqdm=False)
    print(f"generated {len(output.outputs[0].token_ids)} tokens", flush=True)


if __name__ == "__main__":
    main()
