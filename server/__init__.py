"""The control plane: catalog, training API, inference gateway, reports. Stateless; any number of replicas."""
