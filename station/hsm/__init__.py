"""The CA key in its token. The PKCS#11 module lives in child processes; see ``signers``."""
