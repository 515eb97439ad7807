"""A story-telling language model adapted to film reviews: perplexity before and after.

The 260,032-parameter Llama was trained on simple English stories; one-line reviews are
another world. Perplexity is per token of its own 512-piece vocabulary.

Needs:     text/mr_cr/rt-polarity.{pos,neg}, pretrained/stories260k_llama.safetensors
           and tokenizers/stories260k_tok512.json below the folder JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/stories_lm.py
Expected:  test perplexity, mean ± 95 % interval over 3 seeds: before 79.53, after 600
           steps of fine-tuning 9.926 ± 0.005, from scratch in as many steps 18.8 ± 0.3
           (seeds draw the initial values and the order of batches; all share the
           split). 17 minutes on 2 cores.
"""

import jaxtl as tl

SEEDS = range(3)


def experiment():
    stories = tl.pretrained.FromFile("pretrained/stories260k_llama.safetensors")
    reviews = tl.data.Lines(
        ("text/mr_cr/rt-polarity.pos", "text/mr_cr/rt-polarity.neg"),
        tokenizer=tl.data.Tokenizer(
            "tokenizers/stories260k_tok512.json", max_length=96
        ),
        encoding="latin-1",
        split_seed=0,
    )
    shared = dict(model=stories.model(), data=reviews, batch=32, evaluate_batch=128)
    rate = tl.optim.Cosine(peak=1e-3, warmup=20)
    tuned = dict(steps=600, evaluate_every=200, optim=tl.optim.AdamW(lr=rate, clip=1.0))
    return {
        "before": tl.Experiment(**shared, init=stories, steps=0),
        "fine-tuning": tl.Experiment(**shared, **tuned, init=stories),
        "scratch": tl.Experiment(**shared, **tuned),
    }
