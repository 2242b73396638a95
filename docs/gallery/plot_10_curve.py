"""
Accuracy against labels
=======================

The figure of every run: ``featbank plot curve``. Lines are means over the draws, bands are 95 % intervals
for other training images.
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
run = featbank.fit_heads(bank, heads=["softmax", "ncm"], samples_per_class="4..32", repeats=3).run
display = featbank.CurveDisplay.from_run(run)
display.plot()
