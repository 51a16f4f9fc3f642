"""Several processes that train one run: torchrun and FSDP."""
