create table member (card int, name text, area text, age int);
create table hire (card int, month text, hours int, price int);
insert into member values (1,'Ida','north',34), (2,'Jack','south',19), (3,'Kate','east',52), (4,'Leo','north',27), (5,'Mia','west',41);
insert into hire values (1,'june',3,18), (1,'july',7,32), (2,'june',2,12), (3,'august',9,40), (3,'july',1,8), (4,'may',4,25), (2,'august',5,22);
