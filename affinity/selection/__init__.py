"""WHICH strategy: the rule table, and the weaker placements that are tried after a refusal."""
