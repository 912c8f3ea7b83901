from infra.s3_server import bucket, s3, s3_endpoint  # noqa: F401  fixtures
