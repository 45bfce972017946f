"""The payment provider as a port: `port.py` says what is asked of one, `values.py` in which words, `errors.py` how it fails.

Each adapter is one module (`stripe.py` is the only one that imports the SDK), and every one passes the same suite,
`tests/integration/provider_suite.py`.
"""
