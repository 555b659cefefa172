"""`/v1/models/{model_id}/train`: bodies, schemas, endpoints."""
