"""Why a model finds what it finds: where its attention looked."""
