"""A load test: records made from the signature, sent by many users at once, and held to a service level."""
