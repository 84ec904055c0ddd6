//! The moment of the swap.
