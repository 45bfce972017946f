"""Payment methods: held by the payment provider. Here stand its ids and the last four digits, and nothing else of a card."""
