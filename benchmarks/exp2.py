"""Scratch: bits under flags, and attention variants."""
import os, sys, subprocess, time, json, pathlib
HERE = pathlib.Path(__file__).parent
FLAGS = {"none": "", "exclude": "--xla_gpu_exclude_nondeterministic_ops=true", "determ": "--xla_gpu_deterministic_ops=true"}
def child_bits(case):
    import gpu_parts as g, tempfile
    d = tempfile.mkdtemp(); os.chdir(d)
    if case == "BERT":
        import numpy as np, jaxtl as tl, transformers, torch_models, models
        from jaxtl.models import bert
        cfg = transformers.BertConfig(num_labels=10, num_hidden_layers=2, hidden_size=128, num_attention_heads=4, intermediate_size=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        pair = torch_models.hugging_face("b", "BertForSequenceClassification", bert, cfg, torch_models.text(64, 64, 30522), outputs=10)
        # weights of transformers are random: seed
        exp = g._experiment(pair, np.arange(64) % 10, dtype="float32", init=None)
        def go():
            run = tl.setup(exp); g.advance(run, 30); return g._digest(run)
        print("DIGEST", go()[:8], go()[:8]); return
    print("DIGEST", g._straight(case, 40, False)[:8], g._straight(case, 40, False)[:8])
def child_time(case):
    import gpu_parts as g, tempfile, jaxtl as tl, timing, statistics, functools
    os.chdir(tempfile.mkdtemp())
    run = tl.setup(g._resumable(case, 10**6, False)); g.advance(run, 50)
    t = timing.alternate({"a": functools.partial(g.advance, run, 50)}, 9).clock["a"]
    print("MS", round(1e3*statistics.median(t)/50, 4))
def child_net(name, variant):
    import jax, functools
    orig = jax.nn.dot_product_attention
    import jax.numpy as jnp
    if variant == "cudnn":
        jax.nn.dot_product_attention = functools.partial(orig, implementation="cudnn")
    if variant == "lengths":
        def f(q, k, v, mask=None, scale=None):
            causal = mask.shape[-2] > 1
            lengths = (mask[:, 0, -1] if causal else mask[:, 0, 0]).sum(-1).astype(jnp.int32)
            return orig(q, k, v, scale=scale, is_causal=causal, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn")
        jax.nn.dot_product_attention = f
    import gpu_parts as g, jaxtl as tl, numpy as np, timing, statistics
    pair = {"bert": g._bert_pair, "gpt2": g._gpt2_pair, "vit": g._vit_pair}[name](False)
    n = len(jax.tree.leaves(pair.x)[0])
    y = np.arange(n) % 10 if pair.task == "classification" else np.zeros(n, int)
    run = tl.setup(g._experiment(pair, y))
    t0 = time.time(); g.advance(run, 1); c = time.time() - t0
    print("READY", flush=True); sys.stdin.readline()
    t = timing.alternate({"a": functools.partial(g.advance, run, 5)}, 7).clock["a"]
    l = float(np.asarray(run.dispatch(1)[0][1])[0][0])
    print("MS", round(1e3*statistics.median(t)/5, 3), "compile", round(c,1), "peak", g._peak_memory(), "loss", l, flush=True)
def spawn(args, flags="", **env):
    e = {**os.environ, "XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **env}
    return subprocess.Popen([sys.executable, __file__, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=e)
def last(p, key):
    out, err = p.communicate()
    lines = [l for l in out.splitlines() if l.startswith(key)]
    return lines[-1] if lines else "FAILED " + " | ".join(err.strip().splitlines()[-3:])
def main():
    start = time.time()
    nets = [("bert", v) for v in ("xla", "cudnn", "lengths")] + [("gpt2", v) for v in ("xla", "cudnn", "lengths")] + [("vit", "xla"), ("vit", "cudnn")]
    ps = {n: spawn(["net", *n]) for n in nets}
    for n, p in ps.items():
        line = p.stdout.readline()
        while line and "READY" not in line: line = p.stdout.readline()
    print("nets compiled", round(time.time()-start), flush=True)
    for n, p in ps.items():
        try:
            p.stdin.write("\n"); p.stdin.flush()
        except Exception: pass
        print(n, last(p, "MS"), flush=True)
    print("nets", round(time.time()-start), flush=True)
    ps = {(f, c, k): spawn(["bits", c], FLAGS[f]) for f in FLAGS for c in ("CNN", "ResNet-20", "ResNet-20, bfloat16", "BERT") for k in (0, 1)}
    for n, p in ps.items(): print(n, last(p, "DIGEST"), flush=True)
    print("bits", round(time.time()-start), flush=True)
    for k in (0, 1):
        print("cache", k, last(spawn(["bits", "ResNet-20, bfloat16"], FLAGS["exclude"], JAX_COMPILATION_CACHE_DIR="/tmp/jc", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"), "DIGEST"), flush=True)
    for f in FLAGS:
        for c in ("CNN", "ResNet-20", "ResNet-20, bfloat16"):
            print(f, c, last(spawn(["time", c], FLAGS[f]), "MS"), flush=True)
    print("all", round(time.time()-start), flush=True)
if __name__ == "__main__":
    {"bits": child_bits, "time": child_time, "net": child_net}[sys.argv[1]](*sys.argv[2:]) if len(sys.argv) > 1 else main()
