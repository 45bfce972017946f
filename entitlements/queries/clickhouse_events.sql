-- A tenant's admitted events in order of their time, behind the last one shown.
SELECT toUnixTimestamp64Milli(occurred_at) AS at_ms, usage_type, source_service, source_entity_id,
       toString(toInt128(reinterpretAsInt64(quantity))), kind, toUnixTimestamp64Milli(ingested_at),
       log_epoch, kafka_partition, kafka_offset, metadata
  FROM usage
 WHERE tenant_id = {tenant:String} AND ({type:String} = '' OR usage_type = {type:String})
   AND occurred_at >= toDateTime64({start:Date}, 3, 'UTC') AND occurred_at < toDateTime64({end:Date}, 3, 'UTC')
   AND (toUnixTimestamp64Milli(occurred_at), usage_type, source_service, source_entity_id)
       > ({after_ms:Int64}, {after_type:String}, {after_service:String}, {after_entity:String})
 ORDER BY at_ms, usage_type, source_service, source_entity_id
 LIMIT {count:UInt32}
