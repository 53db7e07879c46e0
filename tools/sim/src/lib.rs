//! A deterministic world for tests: virtual clock, seeded links, NATs, firewalls.
