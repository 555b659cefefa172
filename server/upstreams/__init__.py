"""Other vendors' models in the catalog: sampled in the vendor's own API, recorded, never trained."""
