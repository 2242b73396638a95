"""
Accuracy against depth
======================

Where to cut, from shallow to deep, with the training accuracy beside it: ``featbank plot cuts``.
"""

# %%
import featbank

bank = featbank.open_bank(
    featbank.extract(
        "digits",
        backbone="minivgg",
        cuts=["block2_pool", "block3_pool", "block5_pool"],
        split="40,10,40",
        limit=900,
    ).bank
)
run = featbank.fit_heads(bank, heads=["softmax"], samples_per_class="8,32", repeats=3).run
display = featbank.CutsDisplay.from_run(run, n_per_class=32)
display.plot()
