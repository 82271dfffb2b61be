create table bicycle (number int, owner text, colour text, age int);
create table repair (number int, part text, hours int, price int);
insert into bicycle values (1,'Anna','red',4), (2,'Ben','blue',9), (3,'Clara','green',2), (4,'David','red',7), (5,'Emma','black',12);
insert into repair values (1,'chain',2,45), (1,'wheel',5,80), (2,'chain',3,50), (2,'frame',8,120), (3,'tyre',1,15), (4,'wheel',4,95), (4,'tyre',6,30);
