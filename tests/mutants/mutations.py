"""The mutations: a file of the core, a text that is there once, what replaces it, and the tests that should notice.

`equivalent`: why no test can notice, or why none on a machine of one node can.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutation(NamedTuple):
    """tests: arguments of pytest, in the folder `tests`."""

    file: str
    old: str
    new: str
    tests: str
    equivalent: str = ""

    @property
    def shown(self) -> str:
        """The change in one line."""
        return f"{' '.join(self.old.split())} -> {' '.join(self.new.split()) or 'nothing'}"


def mutated(mutation: Mutation, text: str) -> str:
    """Return the text of the file with the mutation. Raise ValueError if it does not apply: the file has changed."""
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(f"{mutation.file} has {mutation.old!r} {found} times, expected once: correct mutations.py")
    changed = text.replace(mutation.old, mutation.new)
    if ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text)):
        raise ValueError(f"{mutation.file}: {mutation.new!r} in place of {mutation.old!r} changes no code")
    return changed


def _of(file: str, *changes: tuple[str, ...]) -> list[Mutation]:
    return [Mutation(file, *change) for change in changes]


MUTATIONS = [
    *_of(
        "affinity/strategies/process.py",
        (
            "    global binding_lock\n    binding_lock = threading.RLock()\n\n\nos.",
            "    pass\n\n\nos.",
            "test_disturbed.py -k fork_while",
        ),
        ("old = [process_mask(process)]", "old = [process.get_affinity(me)]", "test_bind.py -k pinned"),
        ("old.append(known.allowed)", "pass", "test_disturbed.py -k second_bind"),
        ("if tid == me or mask in old:", "if mask in old:", "test_bind.py -k pinned"),
        ("if tid == me or mask in old:", "if True:", "test_bind.py -k pinned"),
        ("skipped += mask != cpus", "skipped += 1", "test_bind.py -k 'pinned or twice'"),
        ("skipped + len(refused)", "skipped", "test_bind.py -k kernel_keeps"),
        (
            "    if bound:\n        process.set_affinity(me, cpus)",
            "    if False:\n        process.set_affinity(me, cpus)",
            "test_refused.py -k nothing_is_half_bound",
        ),
        ("bound = process.get_affinity(me) != cpus", "bound = True", "test_bind.py -k 'twice or given_is'"),
        ("if quiet == 2 or", "if quiet == 1 or", "test_disturbed.py -k between_the_listing"),
        (
            "                    quiet = 0\n                    process.set",
            "                    process.set",
            "test_disturbed.py -k between_the_listing",
        ),
        (
            "quiet = 0  # it ended",
            "pass  # it ended",
            "test_disturbed.py test_bind.py -k 'between_the_listing or start_and_end'",
        ),
        (
            "(len(seen) == 1 and process.is_this_process)",
            "len(seen) == 1",
            "test_attach.py test_attach_simulated.py -k 'chain or thread'",
        ),
        ("                refused.append(error)", "                raise", "test_bind.py -k kernel_keeps"),
        ("with binding_lock, mask_lent(kernel):", "with binding_lock:", "test_spawn.py -k lent"),
        ("with binding_lock, mask_lent(kernel):", "with mask_lent(kernel):", "test_spawn.py -k waits"),
        (
            "placement.cpus is not None and mask != placement.cpus",
            "placement.cpus is not None",
            "test_refused.py -k run_needs",
        ),
        ('        _put_back("CPUs", mask,', '        0 and _put_back("CPUs", mask,', "test_contract.py -k Inherit"),
        (
            "        if policy is not None:\n            _put_back",
            "        if False:\n            _put_back",
            "test_bind.py -k flags",
        ),
        (
            "if read() != before:",
            "if True:",
            "test_refused.py test_spawn.py -k 'put_back or given_back or cpus_and or needs_no'",
        ),
        (
            '        _log.warning("affinity: a thread that',
            '        raise\n        _log.warning("affinity: a thread that',
            "test_spawn.py -k put_back",
        ),
        (
            "        if before is not None:\n            kernel.set_mempolicy(before)",
            "        if False:\n            pass",
            "test_disturbed.py -k cuts",
        ),
        ("    kernel.set_mempolicy(policy)  # the bare", "    pass  # the bare", "test_refused.py -k set_mempolicy"),
        ("if found not in (policy, None):", "if found != policy:", "test_refused.py -k 'cannot_be_read or not_needed'"),
        (
            "if memory is not None and memory.mode not in _FOLLOW_CPUS:",
            "if False:",
            "test_attach.py test_contract.py -k 'from_outside or External'",
        ),
        (
            "_FOLLOW_CPUS = (MemoryMode.PREFERRED, MemoryMode.PREFERRED_MANY, MemoryMode.LOCAL)",
            "_FOLLOW_CPUS = (MemoryMode.PREFERRED, MemoryMode.PREFERRED_MANY)",
            "test_attach_simulated.py",
        ),
        (" or placement.memory.mode is MemoryMode.DEFAULT:", ":", "test_bind.py -k memory"),
        (
            "(MemoryMode.INTERLEAVE, MemoryMode.DEFAULT)",
            "(MemoryMode.DEFAULT,)",
            "test_disturbed.py test_fakehost.py -k pages",
        ),
        (
            "(MemoryMode.INTERLEAVE, MemoryMode.DEFAULT)",
            "(MemoryMode.INTERLEAVE,)",
            "test_disturbed.py test_fakehost.py -k pages",
        ),
        (
            "host.topology.memory_nodes & host.topology.cpu_nodes & host.allowed_nodes) - target",
            "host.topology.memory_nodes & host.allowed_nodes) - target",
            "test_disturbed.py -k gpus_memory",
        ),
        (
            "target = policy.nodes or (",
            "target = policy.nodes and (",
            "test_disturbed.py test_fakehost.py test_contract.py -k 'pages or libnuma'",
        ),
        ("if refused.errno != errno.ENOMEM:", "if True:", "test_fakehost.py test_attach_simulated.py -k 'fit or room'"),
        (
            "migrate_to_placement(placement, host, outcome) if placement.migrate else outcome",
            "migrate_to_placement(placement, host, outcome)",
            "test_disturbed.py -k pages",
        ),
        (
            "unmoved=left * mmap.PAGESIZE",
            "unmoved=0",
            "test_fakehost.py test_attach_simulated.py test_attach.py -k 'fit or room or stay or pages'",
        ),
    ),
    *_of(
        "affinity/handoff.py",
        (
            "return found if found is not None and found.by == process.identity() else None",
            "return found",
            "test_bind.py test_launchers.py -k 'fork or given_a_gpu'",
        ),
        ("        kernel.environ.pop(VARIABLE, None)\n", "        pass\n", "test_bind.py -k undo"),
        ("by=kernel.identity(), settings={}", "settings={}", "test_bind.py -k another_program"),
        ("known.cpus & online == mask", "known.cpus == mask", "test_disturbed.py test_origin.py"),
        ("    if own is not None and own.memory:\n        return True\n", "", "test_disturbed.py -k policy"),
        (
            "!= process_mask(process) or _counts(found, process):",
            "!= process_mask(process):",
            "test_launchers.py test_bind.py -k 'loader or own_place'",
        ),
        ("    if tid in lent:", "    if False:", "test_starts.py -k signal"),
        ("    if lent is not None:\n        return lent\n", "", "test_spawn.py -k lent"),
        (
            "    except ProcessLookupError:  # the main thread has ended\n        return process.get_affinity()",
            "    except ProcessLookupError:  # the main thread has ended\n        raise",
            "test_bind.py test_kernel.py -k 'main or thread'",
        ),
        ("multiprocessing_parent(process) is not None and any(", "any(", "test_bind.py -k another_program"),
        (
            "any(a.identity() == found.by for a in ancestors(process))",
            "True",
            "test_disturbed.py test_bind.py test_security.py -k 'forged or worker or place'",
        ),
        (
            "if environment is not None and not _counts(environment, process):",
            "if False:",
            "test_bind.py -k another_program",
        ),
        ('.replace(";", "%3B")', "", "test_origin.py"),
        ("if self.nodes is not None:  # an", "if self.nodes:  # an", "test_origin.py"),
        (
            "if found is None or found.cpus == found.allowed:",
            "if found is None:",
            "test_bind.py test_ranks.py -k 'another_program or bound_command'",
        ),
        (
            "known = _records.get(process), Handoff.received(process), environment",
            "known = Handoff.received(process), environment",
            "test_bind.py test_fakehost.py test_disturbed.py",
        ),
        (
            "mask, online = process_mask(process), process.online()",
            "mask, online = process.get_affinity(), process.online()",
            "test_bind.py test_spawn.py -k 'pinned or lent'",
        ),
    ),
    *_of(
        "affinity/report/restore.py",
        ("entry is not None and entry.pid == process.pid else", "entry is not None else", "test_launch.py -k fork"),
        (
            "self.observed.threads.get(tid, main if mask == bound else mask)",
            "self.observed.threads.get(tid, mask)",
            "test_disturbed.py -k undo_gives",
        ),
        (
            "self.observed.threads.get(tid, main if mask == bound else mask)",
            "self.observed.threads.get(tid, main)",
            "test_bind.py test_disturbed.py -k 'undo or pinned'",
        ),
        (
            "main = self.observed.threads.get(kernel.pid, mine)",
            "main = mine",
            "test_bind.py test_disturbed.py -k 'undo or pinned'",
        ),
        ("if kernel.thread_id() != me:", "if False:", "test_bind.py -k undo_from"),
        ("self.record.allowed & made.allowed if", "self.record.allowed if", "test_disturbed.py"),
        ("        if self.record is not None:  # what", "        if False:  # what", "test_bind.py -k step_by_step"),
        ("        made = record(kernel, None)", "        made = None", "test_bind.py -k step_by_step"),
        ("        if _entry(kernel) is not self.in_force:", "        if False:", "test_launch.py"),
        (
            "if policy is not None and kernel.get_mempolicy() != policy:",
            "if policy is not None:",
            "test_refused.py test_disturbed.py -k 'undo or given_back or as_it_was or put'",
        ),
        ("if refused or now.threads[me] != mine or (", "if refused or (", "test_disturbed.py -k undo"),
        ("(policy is not None and now.policy != policy)", "False", "test_disturbed.py -k 'undo or put'"),
        (
            "        with strategies_process.binding_lock:\n            observed",
            "        if True:\n            observed",
            "test_disturbed.py -k saved",
        ),
        (
            "        with strategies_process.binding_lock:\n            if left",
            "        if True:\n            if left",
            "test_disturbed.py -k undo",
        ),
        ("launcher = launcher or (before.launcher if before is not None else None)", "pass", "test_launch.py"),
        (
            "        yield\n    finally:\n        before.restore",
            "        yield\n    except BaseException:\n        raise\n    else:\n        before.restore",
            "test_bind.py test_refused.py test_disturbed.py -k 'restored or given_back or step_by_step'",
        ),
        (
            '        return (Degradation.of("put back", refused),)',
            "        return ()",
            "test_disturbed.py test_refused.py -k 'half or put or cannot'",
        ),
    ),
    *_of(
        "affinity/api.py",
        (
            "            before.restore_or_degrade(kernel)  # each",
            "            pass  # each",
            "test_refused.py test_disturbed.py test_fakehost.py",
        ),
        (
            "not_restored = before.restore_or_degrade(kernel)",
            "not_restored: tuple[Degradation, ...] = ()",
            "test_disturbed.py",
        ),
        (
            ", *before.restore_or_degrade(kernel)))",
            ",))",
            "test_disturbed.py test_fakehost.py test_refused.py -k 'mempolicy or ladder or leaves or half or state'",
        ),
        ("allowed=handoff.allowed - lost", "allowed=handoff.allowed", "test_disturbed.py"),
        ("cpus=shown, allowed=", "allowed=", "test_disturbed.py"),
        (
            "        placement.cpus in (None, host.allowed_cpus) or host.allowed_cpus not in now.threads.values()",
            "        True",
            "test_bind.py test_fakehost.py test_refused.py -k 'legacy or liar or half or report or thread'",
        ),
        (
            "    with process.binding_lock:",
            "    if True:",
            "test_disturbed.py test_bind.py -k 'turns or at_once or threads'",
        ),
        ("placement.cpus is not None and _holds_our_mempolicy(observation.host):", "False:", "test_bind.py -k memory"),
        (
            "return policy != MemoryPolicy() and set_by_affinity(policy, host.kernel)",
            "return policy != MemoryPolicy()",
            "test_bind.py -k memory",
        ),
        (
            '    if step.strategy != "noop":\n        environ',
            "    if True:\n        environ",
            "test_cli_run.py test_ranks.py -k 'unbound or environment or allowed_before'",
        ),
        (
            "placement.memory is not None and before.observed.policy is None:",
            "False:",
            "test_refused.py -k cannot_be_read",
        ),
        ("simulated=not kernel.is_this_process", "simulated=False", "test_fakehost.py -k starts_no"),
        (
            '    elif step.strategy != "noop":\n        shown',
            "    else:\n        shown",
            "test_fakehost.py test_contract.py test_bind.py test_broken_plugins.py -k 'noop or ladder or step_by'",
        ),
        (
            "if before.record is not None:  # started",
            "if False:  # started",
            "test_bind.py test_launchers.py test_launch.py -k 'started_bound or own_place or loader'",
        ),
    ),
    *_of(
        "affinity/selection/fallback.py",
        (
            "(selection.strategy, *selection.fallbacks)",
            "(selection.strategy,)",
            "test_bind.py test_refused.py -k without",
        ),
        (
            "        if required:\n            raise",
            "        if False:\n            raise",
            "test_refused.py -k required",
        ),
        ("except (OSError, BindError) as refused:", "except BindError as refused:", "test_refused.py -k step_down"),
    ),
    *_of(
        "affinity/selection/rules.py",
        (
            " or policy == placement.memory or set_by",
            " or set_by",
            "test_bind.py test_selector.py test_spawn.py test_disturbed.py -k 'outside or operators or policy'",
        ),
        (" and placement.cpus == host.allowed_cpus:", ":", "test_bind.py test_selector.py test_policies.py"),
        (
            "len(host.topology.cpu_nodes) < 2 and",
            "True and",
            "test_selector.py test_bind.py test_fakehost.py -k 'table or node'",
        ),
        (
            "    if named or given.settings.required:",
            "    if named:",
            "test_selector.py test_refused.py test_spawn.py -k 'required or named'",
        ),
        (
            "    if given.settings.nodes is not None or given.launch.nodes is not None:",
            "    if given.launch.nodes is not None:",
            "test_selector.py",
        ),
        (
            "        except PluginError as error:\n            if len(names) == 1 and named:\n                raise",
            "        except PluginError as error:\n            if False:\n                raise",
            "test_selector.py test_broken_plugins.py",
        ),
        (
            '    if given.launch.mode is LaunchMode.ATTACH:\n        return Support.no("another',
            '    if False:\n        return Support.no("another',
            "test_attach_simulated.py",
        ),
    ),
    *_of(
        "affinity/policies/placement.py",
        (
            "return attrs.evolve(self, memory=None) if self.cpus is not None else None",
            "return None",
            "test_fakehost.py test_refused.py -k 'ladder or step_down'",
        ),
        ("NodeSet([nodes.first()])", "nodes", "test_fakehost.py test_bind.py -k 'preferred_many or legacy or ladder'"),
    ),
    *_of(
        "affinity/policies/split.py",
        (
            "allowed == online or allowed * workers > online",
            "allowed == online or allowed * workers >= online",
            "test_policies.py",
        ),
        ("allowed == online or allowed * workers > online", "allowed * workers > online", "test_policies.py"),
        ("is_worker = launch.binds_workers and", "is_worker =", "test_policies.py"),
        ('and launch.start_method in ("", "exec")', "", "test_policies.py"),
        (
            "for i, gpu in enumerate(gpus) if gpu.node in sharing and",
            "for i, gpu in enumerate(gpus) if gpu.node == node and",
            "test_policies.py",
        ),
        ("(not own or gpu in launch.gpus)]", "True]", "test_policies.py"),
        (
            "cpus = host.topology.cpus_of(nodes) & host.allowed_cpus",
            "cpus = host.topology.cpus_of(nodes)",
            "test_policies.py",
        ),
    ),
    *_of(
        "plugins/affinity_plugins/policies/even.py",
        ("if max(mine) >= count:", "if max(mine) > count:", "test_policies.py"),
        (" and launch.mode is not LaunchMode.SPAWN:", ":", "test_policies.py"),
        ("launch.local_size or count", "count", "test_policies.py"),
    ),
    *_of(
        "plugins/affinity_plugins/policies/core_complex.py",
        ("(-len(cpus), cpus.first())", "(len(cpus), cpus.first())", "test_policies.py"),
        ("best[i % len(best)]", "best[min(i, len(best) - 1)]", "test_policies.py"),
    ),
    *_of(
        "plugins/affinity_plugins/policies/explicit.py",
        ("        if refused:\n", "        if False:\n", "test_policies.py"),
        (
            "if len(settings.cpus) != len(launch.machine_gpus):",
            "if len(settings.cpus) < len(launch.machine_gpus):",
            "test_policies.py",
        ),
    ),
    *_of(
        "plugins/affinity_plugins/strategies/numactl.py",
        ('"--all", f"--phys', 'f"--phys', "test_contract.py test_spawn.py test_bind.py -k 'Numactl or own_place'"),
        (
            "p for p in path.split(os.pathsep) if os.path.isabs(p)",
            "p for p in path.split(os.pathsep)",
            "test_security.py -k 'directory or relative'",
        ),
        (
            "placement.memory.mode is MemoryMode.DEFAULT:",
            "False:",
            "test_bind.py test_contract.py test_spawn.py -k 'numactl or Numactl or memory or own_place'",
        ),
        (
            "        if prefix:\n            self._check",
            "        if False:\n            self._check",
            "test_spawn.py -k refuses",
        ),
    ),
    *_of(
        "plugins/affinity_plugins/strategies/inherit.py",
        (
            "            if observation.launch.start_method in _STARTED_HERE:\n",
            "            if True:\n",
            "test_starts.py -k 'plain and forkserver'",
        ),
        (
            "        with around():  # a refusal",
            "        if True:  # a refusal",
            "test_refused.py test_contract.py -k 'before_a_worker or Inherit'",
        ),
    ),
    *_of(
        "plugins/affinity_plugins/strategies/legacy.py",
        ("placement.memory.mode is MemoryMode.PREFERRED_MANY:", "False:", "test_bind.py -k legacy"),
    ),
    *_of(
        "plugins/affinity_plugins/launchers/environment.py",
        (
            'and "none" not in environ.get("SLURM_GPU_BIND", "").split(",")',
            "",
            "test_launch.py test_launchers.py test_local_rank.py -k 'slurm or Slurm or launcher or rank'",
        ),
        ("left -= int(group[2] or 1)", "left -= 1", "test_launch.py test_local_rank.py"),
        (
            "        if left < 0:\n            return int(group[1])",
            "        if left <= 0:\n            return int(group[1])",
            "test_launch.py test_local_rank.py",
        ),
        ('if environ.get("FLUX_JOB_NNODES") == "1" else None', "", "test_launch.py test_local_rank.py"),
    ),
    *_of(
        "affinity/observe.py",
        ("if max(rank + 1, size or 0) > count:", "if rank + 1 > count:", "test_local_rank.py"),
        ("if max(rank + 1, size or 0) > count:", "if max(rank, size or 0) > count:", "test_local_rank.py"),
        ("    if size is None or size == count:\n", "    if True:\n", "test_local_rank.py"),
        ("return found if found.given == given else None", "return found", "test_launchers.py -k given_a_gpu"),
        (
            "found.by == host.kernel.identity():",
            "False:",
            "test_launchers.py test_bind.py test_launch.py -k 'twice or rank or loader'",
        ),
    ),
    *_of(
        "affinity/kernel/syscalls.py",
        (
            "_MODES[policy.mode] | sum(_FLAGS[flag] for flag in policy.flags)",
            "_MODES[policy.mode]",
            "test_bind.py -k flags",
        ),
        (
            "flags = frozenset(flag for flag, bit in _FLAGS.items() if mode.value & bit)",
            "flags: frozenset[MemoryFlag] = frozenset()",
            "test_bind.py -k flags",
        ),
        ("mode.value & ~sum(_FLAGS.values())", "mode.value", "test_bind.py -k flags"),
        ("if name is MemoryMode.PREFERRED and not nodes:", "if False:", "test_kernel.py test_fakehost.py"),
        ("ctypes.c_ulong(count * _WORD + 1)", "ctypes.c_ulong(count * _WORD)", "test_kernel.py test_fakehost.py"),
        (
            "        if not cpus:  # the",
            "        if False:  # the",
            "test_kernel.py test_fakehost.py -k 'refused or simulation'",
        ),
        ("    if ids != last:", "    if not last:", "test_kernel.py test_bind.py -k 'mask or undo'"),
        ("    if cpus is not last:", "    if not last:", "test_bind.py -k undo"),
        ("if done < 0 and ctypes.get_errno() != errno.EFAULT:", "if done < 0:", "test_pages.py"),
        ("        if done < len(some):", "        if False:", "test_pages.py"),
        (
            "_MPOL_MF_MOVE if nodes is not None else 0",
            "_MPOL_MF_MOVE",
            "test_kernel.py test_pages.py -k 'migrating or sample'",
        ),
    ),
    *_of(
        "affinity/kernel/pages.py",
        ('of_files and permissions[1] == "w"', "False", "test_pages.py"),
        ('of_files and permissions[1] == "w"', "of_files", "test_pages.py"),
        ('permissions[3] == "p" and', "True and", "test_pages.py"),
        ('permissions[:3] != "---"', "True", "test_pages.py"),
        (" and usable and not special:", " and usable:", "test_pages.py"),
        ("return entry >> 61 == 0b100", "return entry >> 63 == 1", "test_pages.py"),
        ("        if hidden > tolerated:", "        if False:", "test_pages.py"),
        ("        if hidden > tolerated:", "        if True:", "test_pages.py"),
        ("if total * _SECONDS_PER_BYTE <= longest:", "if True:", "test_pages.py"),
        ("if total * _SECONDS_PER_BYTE <= 5 * longest:", "if False:", "test_pages.py"),
        ('sizes.get("RssAnon", sizes.get("VmRSS", 0))', 'sizes.get("VmRSS", 0)', "test_pages.py test_kernel.py"),
    ),
    *_of(
        "affinity/kernel/migration.py",
        ("enumerate(origin - target)", "enumerate(origin)", "test_fakehost.py test_kernel.py test_pages.py"),
        ("nodes[i % len(nodes)]", "nodes[0]", "test_fakehost.py test_kernel.py test_pages.py test_disturbed.py"),
        ("private_ranges(directory, of_files=True)", "private_ranges(directory)", "test_pages.py"),
        ("_FILE | _PRESENT | _ZERO, 0, _PRESENT", "_PRESENT | _ZERO, 0, _PRESENT", "test_pages.py"),
        ("if refused.errno not in (errno.ENOTTY, errno.EINVAL):", "if True:", "test_pages.py"),
        (
            '    if not entries.strip(b"\\0"):',
            "    if False:",
            "test_pages.py",
            "A hole has no page to yield: the line saves the time of the loop.",
        ),
        ("        if is_own_page(entry):", "        if True:", "test_pages.py"),
        ("    if addresses:\n        yield addresses", "    if False:\n        yield addresses", "test_pages.py"),
    ),
    *_of(
        "affinity/kernel/procfs.py",
        ("len(found[1]) >= 63", "len(found[1]) > 63", "test_fuzz.py test_kernel.py test_process.py test_fakehost.py"),
        (
            "flags = frozenset(flag for flag in MemoryFlag if",
            "flags = frozenset(flag for flag in () if",
            "test_bind.py -k flags",
        ),
        (' or " file=" in line:', ":", "test_kernel.py test_fuzz.py test_pages.py test_process.py"),
        ("if shown != str(os.getpid()):", "if False:", "test_process.py -k foreign"),
        ('if fields[0] in ("Z", "X"):', "if False:", "test_process.py test_attach.py -k end"),
        (
            "found = found if controllers else path",
            "found = found",
            "test_attach.py test_process.py test_attach_simulated.py",
        ),
        ('.rpartition(")")[2]', '.partition(")")[2]', "test_fuzz.py test_process.py test_attach.py"),
        ('        if option in ("-c", "-m"):\n            break\n', "", "test_fuzz.py test_process.py test_launch.py"),
        ("return int(line.split()[2])", "return int(line.split()[1])", "test_process.py test_watch.py"),
        (
            "if not target <= allowed:",
            "if False:",
            "test_fakehost.py test_process.py -k 'pages or calls or simulation'",
        ),
    ),
    *_of(
        "affinity/kernel/process.py",
        ("        if started != self._started:", "        if False:", "test_process.py test_attach.py -k pid"),
        (
            '        if tid and not os.path.isdir(f"{self._directory}/task/{tid}"):',
            "        if False:",
            "test_process.py -k thread",
        ),
        (
            "            if ended.poll(0):",
            "            if False:",
            "test_process.py test_attach.py -k 'watching or end'",
        ),
        (
            "return {tid: found[tid] for tid in thread_ids(directory) if tid in found}",
            "return found",
            "test_process.py test_attach.py -k thread",
        ),
        ("        if int(fields[FLAGS]) & KERNEL_THREAD:", "        if False:", "test_process.py -k kernel_thread"),
        (
            "return found if syscalls.get_affinity(self._pid) <= found else online_cpus()",
            "return found",
            "test_process.py -k container",
        ),
        (
            "                os.close(descriptor)\n",
            "                pass\n",
            "test_process.py test_watch.py -k 'kept_open or watching'",
        ),
    ),
    *_of(
        "affinity/external.py",
        (
            "        if step.placement is None:\n            _restore(",
            "        if False:\n            _restore(",
            "test_attach_simulated.py",
        ),
        (
            "before.get(tid, main) if mask == record.cpus else mask",
            "before.get(tid, mask)",
            "test_attach_simulated.py test_attach.py -k 'undo or required or refus'",
        ),
        (
            "if earlier is not None and threads[made.before.caller] == earlier.cpus & usable:",
            "if False:",
            "test_attach.py test_attach_simulated.py",
        ),
        ("    if process.pid == host.kernel.pid:\n", "    if False:\n", "test_attach.py -k no_other_process"),
        ('    if identity not in ("", process.identity()):', "    if False:", "test_watch_simulated.py"),
        (
            "    undo_records.delete(record.identity, host.kernel)\n    return now",
            "    return now",
            "test_attach_simulated.py test_attach.py -k undo",
        ),
        ("    undo_records.write(record, kernel)\n    try:", "    try:", "test_attach_simulated.py"),
    ),
    *_of(
        "affinity/report/undo.py",
        ("if mask == self.cpus & usable else mask", "if mask == self.cpus else mask", "test_attach_simulated.py"),
        ("found.st_mode & 0o077:", "found.st_mode & 0o022:", "test_undo_record.py"),
        ("if os.stat(base).st_uid != os.geteuid():", "if False:", "test_undo_record.py"),
        ("if record.identity != identity:", "if False:", "test_undo_record.py"),
        ("os.open(name, os.O_RDONLY | os.O_NOFOLLOW |", "os.open(name, os.O_RDONLY |", "test_undo_record.py"),
        ("st_mtime > _MONTH", "st_mtime > 0", "test_undo_record.py"),
    ),
    *_of(
        "affinity/strategies/start.py",
        ("(block.is_open and block.pid == os.getpid())", "block.is_open", "test_starts.py test_spawn.py -k 'fork'"),
        (
            "(block.is_open and block.pid == os.getpid())",
            "(block.pid == os.getpid())",
            "test_starts.py -k 'nested or asyncio or thread'",
        ),
        (
            "outer, _thread.starting = _thread.starting, None  # of",
            "outer = _thread.starting  # of",
            "test_spawn.py -k pickled",
        ),
        ("            del worker.run\n", "            pass\n", "test_starts.py test_spawn.py -k forkserver"),
        ("    _keep_for_pool(worker, block)\n", "", "test_starts.py -k pool"),
        (
            "return block if block is not None and block.pid == os.getpid() else None",
            "return block",
            "test_starts.py -k pool",
        ),
        (
            "prepared, _thread.starting = _thread.starting, None\n        if",
            "prepared = _thread.starting\n        if",
            "test_spawn.py -k 'tracker or pickled'",
        ),
    ),
    *_of(
        "affinity/strategies/context.py",
        (
            "        worker._affinity_prepare = prepare  # the",
            "        pass  # the",
            "test_spawn.py test_starts.py -k context",
        ),
    ),
]
