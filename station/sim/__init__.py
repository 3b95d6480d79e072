"""What stands behind the wire in the demo and the tests: boards, cloud, jig. Never imports a driver."""
