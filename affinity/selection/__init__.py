"""WHICH strategy: the rule table, and the weaker placements that follow a refusal."""
