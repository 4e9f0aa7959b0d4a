"""An embedding microservice: texts in over HTTP, unit vectors out, one thread owning the model."""
