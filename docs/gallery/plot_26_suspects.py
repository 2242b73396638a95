"""
Likely wrong labels
===================

Each image is judged by heads that have not seen it: ``featbank suspects``. Of the digits few labels are
doubtful.
"""

# %%
import featbank
from featbank.inspection import RunImages, SuspectsDisplay

bank = featbank.open_bank(
    featbank.extract(
        "digits",
        backbone="minivgg",
        cuts=["block2_pool", "block3_pool", "block5_pool"],
        split="40,10,40",
        limit=900,
    ).bank
)
suspects = featbank.find_suspects(bank, "block3_pool")
display = SuspectsDisplay.from_suspects(suspects, RunImages(bank.manifest, bank.provenance), most=12)
display.plot()
