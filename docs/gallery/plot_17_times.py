"""
What it cost
============

The seconds of the extraction and of the fits: ``featbank plot times``.
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
run = featbank.fit_heads(bank, heads=["softmax", "logreg", "ncm"], samples_per_class="8,32", repeats=3).run
display = featbank.TimesDisplay.from_run(run)
display.plot()
