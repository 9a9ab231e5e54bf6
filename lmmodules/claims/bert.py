"""BERT (Devlin et al. 2019): what its recipe claims of warmup."""

from __future__ import annotations

from lmmodules.claims.base import Claim
from lmmodules.claims.rules import Below

WARMUP = Claim(
    paper="bert",
    name="warmup",
    statement="A post-norm network at a high peak learning rate needs warmup.",
    source=(
        "Devlin et al. 2019, as Liu et al. 2019, section 2.4, report it: Adam at 1e-4, warmup over the first 10,000 of "
        "1,000,000 steps, linear decay"
    ),
    reported=(
        "No figure: the paper uses warmup and does not go without. Xiong et al. 2020, *On Layer Normalization in the "
        "Transformer Architecture*, find it crucial for post-norm networks and dispensable for pre-norm ones."
    ),
    setting=(
        "objective=masked_lm",
        "model=bert_base",
        "model.vocab_size=null",
        "model.pad_id=null",
        "model.num_token_types=0",
        "optimizer=adam_weight_decay",
        "schedule=bert_linear",
        "data=standard_library",
    ),
    arms={
        "with warmup": ("schedule.warmup_ratio=0.1",),
        "without warmup": ("schedule.warmup_ratio=0",),
        "half the rate without warmup": ("schedule.warmup_ratio=0", "optimizer.lr=5e-4"),
        "pre-norm without warmup": ("schedule.warmup_ratio=0", "model.pre_norm=true"),
    },
    rules=(Below("with warmup", "without warmup"),),
    sizes={
        "cpu": (
            "model.num_layers=6",
            "model.hidden_size=64",
            "model.num_heads=4",
            "model.intermediate_size=256",
            "model.max_length=32",
            "model.dropout=0",
            "model.attention_dropout=0",
            "tokenizer.vocab_size=512",
            "data.max_length=32",
            "data.batch_size=16",
            "optimizer.lr=1e-3",
            "max_steps=600",
            "validate_every_steps=50",
            "trainer.limit_val_batches=60",
        ),
        "gpu": (
            "tokenizer.vocab_size=8192",
            "data.max_length=128",
            "data.batch_size=128",
            "optimizer.lr=1e-3",
            "max_steps=5000",
            "validate_every_steps=250",
            "trainer.limit_val_batches=20",
        ),
    },
    remarks=(
        "BERT's optimizer does not correct the bias of its moments, so that its early updates are up to 6.6 times "
        "those of AdamW: warmup has to hold these back too. The rate was chosen among 5e-4, 1e-3 and 2e-3 as the "
        "highest at which the network with warmup still learned. Half the rate and the pre-norm network are controls: "
        "no rule asks of them."
    ),
    unit="validation loss, nats per hidden token",
)

CLAIMS = (WARMUP,)
