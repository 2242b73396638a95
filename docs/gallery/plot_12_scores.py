"""
Every score at one size
=======================

Test, validation and training accuracy beside each other: ``featbank plot scores``.
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
run = featbank.fit_heads(bank, heads=["ncm", "ridge"], samples_per_class="32", repeats=3).run
display = featbank.ScoresDisplay.from_run(run)
display.plot()
