"""How processes train one model together, and what is theirs together."""
