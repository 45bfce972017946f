-- The epoch that a topic is.
SELECT epoch FROM epochs WHERE topic = %(topic)s
