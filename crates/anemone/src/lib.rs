//! anemone.
