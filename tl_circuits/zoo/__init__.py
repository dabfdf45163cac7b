"""Small models whose circuits can be looked at: the demo that ships with the package, and hand-built ground truth."""
