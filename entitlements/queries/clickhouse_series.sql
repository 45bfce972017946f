-- A tenant's usage by hour or day and type, behind the last line shown.
SELECT toInt64(toUnixTimestamp(bucket)) * 1000 AS at_ms, usage_type, '', '',
       toString(sum(toInt128(reinterpretAsInt64(quantity)))), count()
  FROM (SELECT if({hourly:UInt8} = 1, toStartOfHour(occurred_at, 'UTC'), toStartOfDay(occurred_at, 'UTC')) AS bucket,
               usage_type, quantity
          FROM usage
         WHERE tenant_id = {tenant:String} AND ({type:String} = '' OR usage_type = {type:String})
           AND occurred_at >= toDateTime64({start:Date}, 3, 'UTC') AND occurred_at < toDateTime64({end:Date}, 3, 'UTC'))
 WHERE (toInt64(toUnixTimestamp(bucket)) * 1000, usage_type) > ({after_ms:Int64}, {after_type:String})
 GROUP BY bucket, usage_type
 ORDER BY bucket, usage_type
 LIMIT {count:UInt32}
