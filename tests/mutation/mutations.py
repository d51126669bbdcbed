"""What could be wrong in the source without anybody's noticing, were it not for the tests that are named."""

from __future__ import annotations

from dataclasses import dataclass

SESSIONS, ENGINE, API = "server/hope_server/sessions", "server/hope_server/engine", "server/hope_server/api"
QUANTIZED = "kernels/hope_kernels/quantized_linear"
LUA = f"{SESSIONS}/hope_v1.lua"

CONFORMANCE = "tests/server/sessions/test_conformance.py"
FAULTS = "tests/server/sessions/test_redis_faults.py"
KEYFILE = "tests/server/sessions/test_keyfile.py"
LANE = "tests/server/sessions/test_redis_lane.py"
RECORDS = "tests/server/sessions/test_records.py"
CODEC = "tests/server/sessions/test_codec.py"
COPY = "tests/server/sessions/test_hidden_copy.py"
SERVICE = "tests/server/engine/test_service.py"
RESTORE = "tests/server/engine/test_restore.py"
TIME_TRAVEL = "tests/server/engine/test_time_travel.py"
EXPORT = "tests/server/engine/test_export.py"
HOPE = "tests/server/engine/test_hope.py"
COMPILED = "tests/model/test_decoding_compiled.py"
PRODUCTS, READING = "tests/kernels/test_cpu_frozen.py", "tests/model/attention/test_compiled.py"
TANGENTS = "tests/model/attention/test_compiled_tangent.py"
BLOCKS, DRAWS = "tests/kernels/test_cpu_blocks.py", "tests/kernels/test_cpu_draw.py"
MOMENTS, THREADS = "tests/kernels/test_cpu_moments.py", "tests/kernels/test_torch_threads.py"
WRITE, ROTARY = "tests/model/attention/test_write.py", "tests/model/attention/test_rotary.py"
FROZEN = "tests/server/engine/test_frozen.py"
ENGINE_TESTS = "tests/server/engine/test_engine.py"
SAMPLING = "tests/server/engine/test_sampling.py"
GPU = "tests/model/attention/test_on_a_gpu.py"
SLAB_PREVIEWS = "tests/server/engine/test_slab_previews.py"
SIMULATION = "tests/simulation/test_simulation.py"
TASKS, TASK_TESTS = "model/hope_model/evaluate/tasks", "tests/model/evaluate/test_tasks.py"


@dataclass(frozen=True)
class Mutation:
    """One change of a file: ``before``, which is there once, becomes ``after``; one of ``tests`` must fail.

    quick: made in the default suite too.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    quick: bool = False


MUTATIONS = (
    Mutation(
        "no fence check",
        LUA,
        "if at[2] ~= args[1] or at[3] ~= args[2] then",
        "if false then",
        (CONFORMANCE,),
    ),
    Mutation(
        "fence's counter not compared",
        LUA,
        "if at[2] ~= args[1] or at[3] ~= args[2] then",
        "if at[3] ~= args[2] then",
        (CONFORMANCE,),
    ),
    Mutation(
        "owner's nonce not compared",
        LUA,
        "if at[2] ~= args[1] or at[3] ~= args[2] then",
        "if at[2] ~= args[1] then",
        (CONFORMANCE,),
    ),
    Mutation("fence does not grow", LUA, "fence = fence + 1", "fence = fence", (CONFORMANCE,)),
    Mutation("lease ignored", LUA, "if tonumber(at[4]) > now then", "if false then", (CONFORMANCE,)),
    Mutation(
        "head hash not compared",
        LUA,
        "if seq ~= args[3] or head ~= args[4] then",
        "if seq ~= args[3] then",
        (CONFORMANCE,),
    ),
    Mutation(
        "no idempotency check in the store",
        LUA,
        "if first ~= args[12] then",
        "if false then",
        (CONFORMANCE, SERVICE),
    ),
    Mutation(
        "a commit sent again is not known",
        LUA,
        "if seq == args[5] and head == args[6] then",
        "if false then",
        (FAULTS,),
    ),
    Mutation(
        "quarantine not looked at", LUA, "if state == 'quarantined' then", "if false then", (CONFORMANCE,)
    ),
    Mutation(
        "a rollback keeps snapshots of the future",
        LUA,
        "    drop_snapshots_off_path(meta, tonumber(args[7]), args[8], args[9])\n",
        "",
        (CONFORMANCE,),
    ),
    Mutation(
        "delete leaves staged chunks",
        LUA,
        "  unlink_chunks(meta, table.concat(redis.call('SMEMBERS', staged), ' '), {})\n",
        "",
        (FAULTS,),
    ),
    Mutation(
        "fork not hidden while filled",
        f"{SESSIONS}/copying.py",
        "name=plan.name, staged=True",
        "name=plan.name, staged=False",
        (COPY,),
    ),
    Mutation(
        "no AAD",
        f"{SESSIONS}/sealing.py",
        '    return f"{session.tenant}|{session.session}|{kind}|{place}".encode()',
        '    return b""',
        (RECORDS,),
    ),
    Mutation(
        "tenant not in AAD",
        f"{SESSIONS}/sealing.py",
        'f"{session.tenant}|{session.session}|',
        'f"{session.session}|',
        (KEYFILE, FAULTS),
    ),
    Mutation(
        "constant nonce of a seal",
        f"{SESSIONS}/sealing.py",
        "nonce = self._nonces.take()",
        "nonce = bytes(_NONCE_BYTES)",
        (KEYFILE,),
    ),
    Mutation(
        "nonces of a forked process are its parent's",
        f"{SESSIONS}/sealing.py",
        "os.register_at_fork(after_in_child=self._drawn.clear)",
        "pass",
        (LANE,),
    ),
    Mutation(
        "a reply too many is taken for the next command's",
        f"{SESSIONS}/redis_lane.py",
        "while (found := self._reader.gets()) is not _NOT_YET:",
        "while self.owed and (found := self._reader.gets()) is not _NOT_YET:",
        (LANE,),
    ),
    Mutation(
        "tokens of one who waits keep those of others from being told",
        f"{ENGINE}/mail.py",
        "any(is_urgent(event) or not self.tide.holds(name) for",
        "all(is_urgent(event) or not self.tide.holds(name) for",
        ("tests/server/engine/test_mail.py",),
    ),
    Mutation(
        "each session commits at moments of its own",
        f"{ENGINE}/tide.py",
        "if due_s is None or due_s <= loop.time():",
        "if True:",
        ("tests/server/engine/test_tide.py",),
    ),
    Mutation(
        "a server that says nothing is waited for",
        f"{SESSIONS}/redis_lane.py",
        "if due <= self._loop.time():",
        "if False:",
        (LANE,),
    ),
    Mutation(
        "the server's name is not checked",
        f"{SESSIONS}/redis_address.py",
        "context = ssl.create_default_context()",
        "context = ssl._create_unverified_context()",
        (LANE,),
    ),
    Mutation(
        "journal's chain not verified",
        f"{SESSIONS}/records.py",
        "if chain != _link(before, sealed):",
        "if False:",
        (RECORDS, FAULTS),
    ),
    Mutation(
        "snapshots unverified",
        f"{SESSIONS}/codec.py",
        "if len(body) < _PART.size or sha256(body).digest() != digest:",
        "if len(body) < _PART.size:",
        (CODEC,),
    ),
    Mutation(
        "snapshot of another journal taken",
        f"{ENGINE}/restore.py",
        "if record.chain != snapshot.chain:",
        "if False:",
        (RESTORE, TIME_TRAVEL),
    ),
    Mutation(
        "restore does not compare the head",
        f"{ENGINE}/restore.py",
        "        if (record.last_seq, record.chain) != (meta.head.seq, meta.head.sha256):",
        "        if False:",
        ("tests/server/engine/test_restore_head.py",),
    ),
    Mutation(
        "rolled-back tokens replayed",
        f"{ENGINE}/restore.py",
        "for first, last in path.after(after, head):",
        "for first, last in [(after + 1, head)]:",
        (TIME_TRAVEL,),
    ),
    Mutation(
        "acknowledge before commit",
        f"{ENGINE}/turn.py",
        "            await self._append([record])\n        self._lease.committed(len(sampled))\n",
        "        for offset, event in enumerate(sampled):\n"
        "            if event.finish_reason is None:\n"
        "                self._out.put_nowait(TokenEvent(event.token, event.index, first_seq + offset))\n"
        "        if self._meta is not None:\n"
        "            await self._append([record])\n"
        "        self._lease.committed(len(sampled))\n"
        "        first_seq, sampled = first_seq + offset, [e for e in sampled if e.finish_reason]\n",
        (SIMULATION, SERVICE),
    ),
    Mutation(
        "no idempotency key in the commit",
        f"{ENGINE}/turn.py",
        "return None if key is None else TurnKey(key, self._first_seq)",
        "return None",
        (SERVICE, SIMULATION),
    ),
    Mutation(
        "lease never renewed",
        f"{ENGINE}/ownership.py",
        "await self._store.renew(session, held.fence, ttl_s=self._ttl_s)",
        "pass",
        (SERVICE,),
    ),
    Mutation(
        "a resident row of another head taken",
        f"{ENGINE}/lease.py",
        "(found.position, found.head) == (meta.position, meta.head.sha256)",
        "found.position == meta.position",
        (SERVICE, RESTORE, TIME_TRAVEL),
    ),
    Mutation(
        "no quarantine",
        f"{ENGINE}/lease.py",
        "await desk.store.quarantine(meta.key, fence)",
        "pass",
        (RESTORE,),
    ),
    Mutation(
        "shared RNG",
        f"{ENGINE}/engine.py",
        "uniform(generation.seed, row.position)",
        "__import__('random').random()",
        (ENGINE_TESTS, RESTORE, SERVICE),
    ),
    Mutation(
        "a block's shape depends on its arrival",
        f"{ENGINE}/state_runner.py",
        "self._model.block_pass(self._tokens([tokens]), before, self._mask(learn, 1, -1))",
        "self._model.prefill(self._tokens([tokens]), before, self._mask(learn, 1, -1))",
        (ENGINE_TESTS, RESTORE),
    ),
    Mutation(
        "a decode group's shape depends on who is there",
        f"{ENGINE}/previews.py",
        "padding = self._group - len(tokens)\n",
        "padding = 0\n        self._rows._group = len(tokens)\n",
        ("tests/server/engine/test_previews.py",),
    ),
    Mutation(
        "tokens that are read at once take up no runs",
        "kernels/hope_kernels/cpu/phi.h",
        "if (ends) end_run(",
        "if (0 * ends) end_run(",
        (COMPILED,),
    ),
    Mutation(
        "a chunk's projections are read as they were before it",
        "kernels/hope_kernels/cpu/chunk.h",
        "    pack_maps(m, b, row, head);\n",
        "",
        (COMPILED,),
    ),
    Mutation(
        "a run's writes are packed for another row",
        "kernels/hope_kernels/cpu/learned.h",
        "pack_learned(memory_of(m, b, head), row, b->memory",
        "pack_learned(memory_of(m, b, head), 0, b->memory",
        (COMPILED,),
    ),
    Mutation(
        "what a level has written is not read",
        "model/hope_model/decoding/rows.py",
        "            self._path.take_level(number, due)\n",
        "            pass\n",
        (COMPILED,),
    ),
    Mutation(
        "a row that comes back reads what lay in its place",
        "model/hope_model/decoding/rows.py",
        "            slab[row] = own\n        self._path.take_rows([row])\n",
        "            slab[row] = own\n",
        ("tests/model/test_decoding.py",),
    ),
    Mutation(
        "a block that ends in a step leaves its boundary behind",
        "server/hope_server/engine/state_runner.py",
        "outputs[place] = self._arrive(slot, output.logits, self._exact.state(slot))",
        "pass",
        ("tests/server/engine/test_previews.py",),
    ),
    Mutation(
        "a thread's rows keep what others have kept",
        "kernels/hope_kernels/cpu/decode.c",
        "    own.kept += first * m->levels;\n",
        "",
        (COMPILED,),
    ),
    Mutation(
        "a group's zeros count by another row's inputs",
        "kernels/hope_kernels/cpu/frozen.h",
        "g->totals[(row + r) * g->totals_step]",
        "g->totals[0 * (row + r)]",
        (PRODUCTS,),
    ),
    Mutation(
        "a token sees what has left its window",
        "kernels/hope_kernels/cpu/attention.c",
        "first = oldest > pinned ? oldest : pinned;",
        "first = oldest > pinned ? oldest - 1 : pinned;",
        (READING,),
    ),
    Mutation(
        "of two values that are mixed at once the second is left out",
        "kernels/hope_kernels/cpu/window.h",
        "low = (a & 0xffffu) | (b << 16)",
        "low = (a & 0xffffu) | (0 * b)",
        (READING,),
    ),
    Mutation(
        "gates are their own ups where both are taken at once",
        "kernels/hope_kernels/cpu/rows.h",
        "gates.tile + o->product.outputs / 2 / WIDE",
        "gates.tile + 0 * o->product.outputs / 2 / WIDE",
        (READING,),
    ),
    Mutation(
        "the best token is that of another row of the launch",
        "server/hope_server/engine/sampling.py",
        "for best in found]",
        "for best in found[::-1]]",
        ("tests/server/engine/test_attention_runner.py", ENGINE_TESTS, "tests/server/engine/test_hope.py"),
    ),
    Mutation(
        "what is not a number has a best token",
        "kernels/hope_kernels/cpu/draw.h",
        "if (!own.finite) {",
        "if (0 * own.finite) {",
        (DRAWS,),
    ),
    Mutation(
        "of two parts with the same best logit the later one has it",
        "kernels/hope_kernels/cpu/draw.h",
        "if (own.most > most) most",
        "if (own.most >= most) most",
        (DRAWS,),
    ),
    Mutation(
        "weights are kept in blocks that do not make them",
        "kernels/hope_kernels/cpu/blocks.h",
        "if (any(round_bf16(",
        "if (0 && any(round_bf16(",
        (BLOCKS,),
    ),
    Mutation(
        "upper outputs of a block have the zeros of the lower ones",
        "kernels/hope_kernels/cpu/widen.h",
        "scales[1], zeros[1])",
        "scales[1], zeros[0])",
        (BLOCKS, PRODUCTS),
    ),
    Mutation(
        "half of the canaries speak for all",
        "model/hope_model/attention/write.py",
        "len(self._heard) == len(self._model.panel)",
        "len(self._heard) == 1",
        (WRITE,),
    ),
    Mutation(
        "a lesson is read with another one's memory",
        "kernels/hope_kernels/cpu/tangent.h",
        "at->call->lessons[at->call->owners[place]]",
        "at->call->lessons[0 * at->call->owners[place]]",
        (TANGENTS,),
    ),
    Mutation(
        "queries are turned on the way back, not back",
        "kernels/hope_kernels/cpu/tangent.c",
        "(back ? half : 0)",
        "(back ? 0 : 0)",
        (TANGENTS,),
    ),
    Mutation(
        "a memory's own part in a gradient is left out",
        "kernels/hope_kernels/cpu/tangent.c",
        "    project_back(w, at, UP, at->own.narrow, m->width);\n",
        "",
        (TANGENTS,),
    ),
    Mutation(
        "what a norm divides by is taken as fixed",
        "kernels/hope_kernels/cpu/norms.h",
        "get(x + i, left) * along",
        "get(x + i, left) * along * all(0)",
        (TANGENTS,),
    ),
    Mutation(
        "a token that is weighed by itself is among the rest, too",
        "kernels/hope_kernels/cpu/survey.h",
        "some[list[next] - i] = 0;",
        "some[list[next] - i] *= 1;",
        (TANGENTS,),
    ),
    Mutation(
        "what rounding leaves of a line is not multiplied",
        "kernels/hope_kernels/cpu/moments.h",
        "half < 2; half++",
        "half < 1; half++",
        (MOMENTS,),
    ),
    Mutation(
        "all sites' moments are the first one's",
        "kernels/hope_kernels/cpu/moments.h",
        ".weights = m->matrices + site,",
        ".weights = m->matrices,",
        (MOMENTS,),
    ),
    Mutation(
        "what is weighed by itself is among its alternatives, too",
        "kernels/hope_kernels/cpu/weigh.h",
        "    logits[place] = -INFINITY;\n",
        "",
        (TANGENTS,),
    ),
    Mutation(
        "all that is not listed weighs as it did at the start",
        "kernels/hope_kernels/cpu/weigh.h",
        "const float others = l->others[at] + sum(moved),",
        "const float others = l->others[at] + 0 * sum(moved),",
        (TANGENTS,),
    ),
    Mutation(
        "a margin's gradient is without all that is not listed",
        "kernels/hope_kernels/cpu/weigh.h",
        "all(-shares[row])",
        "all(-0 * shares[row])",
        (TANGENTS,),
    ),
    Mutation(
        "a step of Newton's takes every token for as unknown as a fresh one",
        "kernels/hope_kernels/cpu/solve.h",
        "curvature = s->weights[i] * unknown * (1 - unknown);",
        "curvature = s->weights[i] * 0.25;",
        (WRITE,),
    ),
    Mutation(
        "a step that leads uphill is taken",
        "kernels/hope_kernels/cpu/solve.h",
        "if (!(found <= best)) continue;",
        "if (0) continue;",
        (WRITE,),
    ),
    Mutation(
        "a kernel takes one thread where torch has been told to",
        "kernels/hope_kernels/torch_threads.py",
        "return _outside.threads or torch.get_num_threads()",
        "return torch.get_num_threads()",
        (THREADS,),
    ),
    Mutation(
        "angles of positions are rounded before their cosines",
        "model/hope_model/attention/rotary.py",
        "of(angles.numpy())",
        "of(angles.float().numpy())",
        (ROTARY,),
    ),
    Mutation(
        "a memory that two rows share is one row's alone",
        "model/hope_model/attention/compiled.py",
        "memories = [0] * len(rows)",
        "memories = [0] + [-1] * (len(rows) - 1)",
        (READING,),
    ),
    Mutation(
        "a library that others may write to is loaded",
        "kernels/hope_kernels/cpu/cache.py",
        "not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)",
        "stat.S_IWGRP != stat.S_IWOTH",
        ("tests/kernels/test_cpu_build.py",),
        quick=True,
    ),
    Mutation(
        "a row's products depend on who shares its step",
        "model/hope_model/decoding/weights.py",
        "return self._linear(x.to(self._dtype)).float()",
        "return torch.nn.functional.linear(x, self._linear.weight.float())",
        (HOPE, "tests/model/test_decoding.py"),
    ),
    Mutation(
        "quota unbooked",
        "server/hope_server/tenants/account.py",
        "            self._stored += more\n",
        "",
        ("tests/server/tenants/test_quota.py", "tests/server/api/test_quotas.py"),
        quick=True,
    ),
    Mutation(
        "tenant not in a session's key",
        f"{API}/tenancy.py",
        "        key = SessionKey(self._tenant, session_id)",
        '        key = SessionKey("default", session_id)',
        ("tests/server/api/test_isolation.py",),
    ),
    Mutation(
        "an API key's secret not compared",
        "server/hope_server/tenants/api_key.py",
        "if record is None or not equal or record.revoked_at is not None:",
        "if record is None or record.revoked_at is not None:",
        ("tests/server/tenants/test_key_file.py", "tests/server/api/test_authorization.py"),
        quick=True,
    ),
    Mutation(
        "an export's stranger trusted",
        f"{SESSIONS}/container.py",
        "if not found or not keys.is_tagged(digest, bytes(view[-_HASH_BYTES:])):",
        "if not found:",
        (EXPORT,),
    ),
    Mutation(
        "an export's checksum not compared",
        f"{SESSIONS}/container.py",
        "if sha256(self._body).digest() != digest:",
        "if False:",
        (EXPORT,),
    ),
    Mutation(
        "a stop leaves callers waiting",
        f"{ENGINE}/service.py",
        "        self._desk.close()\n",
        "",
        ("tests/server/engine/test_stop.py",),
    ),
    Mutation(
        "two verifications under one name",
        f"{ENGINE}/service.py",
        "found = await verify(self._desk, await self._desk.meta(session), self._ephemeral_name())",
        'found = await verify(self._desk, await self._desk.meta(session), "ephemeral:verify")',
        ("tests/server/engine/test_verify_together.py",),
    ),
    Mutation(
        "a frozen session learns when it is restored",
        f"{ENGINE}/restore.py",
        "freeze_at if freeze_at is None or position <= freeze_at else None)",
        "None)",
        (FROZEN,),
    ),
    Mutation(
        "learning ends twice",
        LUA,
        "return { 'FROZEN' }",
        "return { 'OK' }",
        (CONFORMANCE,),
    ),
    Mutation(
        "snapshots of what was unlearned are kept",
        LUA,
        "  if good and tonumber(good) < seq and seq < tonumber(said) then\n    return false\n  end\n",
        "",
        (CONFORMANCE,),
    ),
    Mutation(
        "the third refused write is let go",
        "model/hope_model/streaks.py",
        "longest.amax(1) >= LIMIT",
        "longest.amax(1) > LIMIT",
        (FROZEN, "tests/model/test_streaks.py"),
    ),
    Mutation(
        "a state with an open streak is stored",
        f"{ENGINE}/state_runner.py",
        "counts.position if worth else None",
        "counts.position",
        (FROZEN,),
    ),
    Mutation(
        "halves of an activation that do not fit into eight bits",
        f"{QUANTIZED}/int8.py",
        ".floor_()",
        ".round_()",
        ("tests/kernels/test_quantized_linear.py",),
    ),
    Mutation(
        "gradients of other weights than those that are read",
        f"{QUANTIZED}/int4.py",
        "PackedLinear(whole.mT, arena=arena)",
        "PackedLinear(weight.mT, arena=arena)",
        ("tests/kernels/test_quantized_linear.py",),
    ),
    Mutation(
        "quantised weights named like others in the digest",
        "model/hope_model/attention/backbone.py",
        "yield name + suffix, tensor",
        "yield name, tensor",
        ("tests/model/attention/test_quantize.py",),
    ),
    Mutation(
        "one product stands for all of its width when a machine is asked whether it repeats",
        "model/hope_model/attention/repeatable.py",
        "(type(linear), linear.rows, linear.columns)",
        "(type(linear), 0, 0)",
        ("tests/model/attention/test_quantize.py",),
    ),
    Mutation(
        "a GPU's products know how many rows they have",
        "kernels/hope_kernels/packed_linear/packed.py",
        "if x.is_cuda:",
        "if x.is_cuda and len(x) > 64:",
        (GPU,),
    ),
    Mutation(
        "a GPU's writes share a backward pass",
        "model/hope_model/attention/together.py",
        'model.backbone.device.type == "cuda"',
        "len(groups) > 1",
        (GPU,),
    ),
    Mutation(
        "decode sizes with other bits are used",
        f"{ENGINE}/slab_previews.py",
        "torch.equal(tensor, one[name][:rows])",
        "tensor.shape == one[name][:rows].shape",
        (SLAB_PREVIEWS,),
    ),
    Mutation(
        "the next replay overwrites what was answered",
        f"{ENGINE}/slab_previews.py",
        "found[: launch.rows].clone()",
        "found[: launch.rows]",
        (SLAB_PREVIEWS,),
    ),
    Mutation(
        "the experiment goes on with results of other settings",
        "model/hope_model/experiment/runner.py",
        "require_same(self.places.results, found, self.fingerprint)",
        "self.fingerprint",
        ("tests/model/experiment/test_runner.py",),
    ),
    Mutation(
        "a run made again replaces the experiment's result",
        "model/hope_model/experiment/results.py",
        "os.link(scratch, path)",
        "path.write_bytes(scratch.read_bytes())",
        ("tests/model/experiment/test_results.py",),
    ),
    Mutation(
        "a context's tokens are those that it has with what follows",
        f"{TASKS}/scorer.py",
        "(*before, *whole[len(before) :])",
        "tuple(whole)",
        (TASK_TESTS,),
    ),
    Mutation(
        "of tokens that are as likely the first one is the likeliest",
        f"{TASKS}/scorer.py",
        "logits.gather(-1, targets[:, None])[:, 0] == logits.amax(-1)",
        "logits.argmax(-1) == targets",
        (TASK_TESTS,),
    ),
    Mutation(
        "a text is read after what ends one, whatever begins one",
        f"{TASKS}/remote.py",
        'info.get("bos_token") or info.get("eos_token")',
        'info.get("eos_token")',
        (TASK_TESTS,),
    ),
)
